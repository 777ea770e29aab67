"""Settings of the server, frozen; nothing else in the server reads the environment."""

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, ByteSize, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

MiB = 2**20
GiB = 2**30


class Settings(BaseSettings):
    """Everything that an operator can choose; each setting is an environment variable `REGISTRY_<NAME>`.

    Sizes are in bytes, times in seconds, unless the name says otherwise.
    """

    model_config = SettingsConfigDict(env_prefix="REGISTRY_", frozen=True, extra="forbid", populate_by_name=True)

    data: Path = Field(Path("registry-data"), description="folder of the database (SQLite), blobs and staging files")
    database_url: str | None = Field(
        None,
        validation_alias=AliasChoices("database_url", "DATABASE_URL", "REGISTRY_DATABASE_URL"),
        description="a SQLAlchemy URL; if unset, SQLite in the data folder",
    )
    json_bytes: int = Field(MiB, description="largest JSON request body")
    upload_bytes: int = Field(1024 * GiB, description="largest single upload")
    quota_bytes: int = Field(4096 * GiB, description="most bytes of a namespace, including announced uploads")
    quota_uploads: int = Field(2000, description="most open uploads of a namespace")
    part_bytes: int = Field(32 * MiB, ge=1, description="size of an upload part; larger for very large files")
    upload_hours: float = Field(24, description="hours after which an untouched upload session expires")
    body_seconds: float = Field(30, description="longest wait for the next bytes of a request body")
    body_rate: int = Field(
        1024,
        ge=0,
        description="fewest bytes per second of a request body, in each minute of waiting for it; 0 for no limit",
    )
    rate_address: str = Field(
        "12000/minute",
        description="most requests of an address (an IPv6 /64), with or without a token; empty or 0 for no limit",
    )
    rate_token: str = Field(
        "6000/minute",
        description="most requests with a token; eight connections that send parts of 32 MiB at 10 Gbit/s need 2,300 a "
        "minute, pulling a model of 1,000 files 1,100, pushing it 3,100; empty or 0 for no limit",
    )
    limits_storage: str = Field(
        "memory://",
        description="where those requests are counted; several servers share their counts at an address like "
        "redis://host:6379/0 or valkey://host:6379/0",
    )
    downloads_at_once: int = Field(512, ge=1, description="files sent at a time; who asks for more comes back later")
    header_seconds: float = Field(15, description="longest wait for a whole request header")
    lease_seconds: float = Field(30, description="how long a worker may be silent before another takes up its job")
    poll_seconds: float = Field(0.5, description="how often an idle worker looks for a job")
    job_attempts: int = Field(10, description="how many workers may die on a job before it counts as failed")
    job_memory: int | None = Field(None, description="address space limit of a job's process; none if unset")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where workers compose; auto takes a GPU if there is one"
    )
    device_memory: ByteSize | None = Field(
        None,
        description="most memory that a job uses on a GPU, like 8GiB; if unset, 4 GiB or a quarter of what is free",
    )
    public_url: str = Field(
        "", description="address at which people reach the registry, like https://crumbs.example.org"
    )
    webhook_private: bool = Field(False, description="allow webhooks to call http:// and addresses that are not public")
    log_format: Literal["json", "text"] = Field("json", description="one JSON object per line, or text for people")
    bucket: str = Field(
        "", description="bucket that serves downloads, like s3://name/prefix; empty for this server; needs a key"
    )
    bucket_endpoint: str = Field(
        "", description="address of an S3 server other than Amazon's, like https://s3.example.org"
    )
    bucket_region: str = Field("us-east-1", description="region that requests to the bucket are signed for")
    bucket_key_id: str = Field("", description="id of the key that signs requests to the bucket")
    bucket_secret: SecretStr = Field(SecretStr(""), description="secret of that key")
    bucket_seconds: int = Field(
        3600,
        ge=1,
        le=7 * 86400,
        description="how long a signed address of the bucket can be used, by anybody who has it",
    )
    bucket_least: int = Field(
        MiB, ge=1, description="smallest blob that is copied to the bucket; this server sends smaller ones"
    )

    hub_endpoint: str = Field(
        "https://huggingface.co",
        pattern=r"^https?://[^/@?#\s]+$",
        description="the Hub that bases come from; no other is contacted",
    )
    hub_hosts: str = Field(
        "*.hf.co,*.huggingface.co",
        pattern=r"^[a-z0-9.*:,-]*$",
        description="hosts that the Hub may redirect downloads to: name, name:port or *.name, separated by commas",
    )
    hub_token: SecretStr | None = Field(
        None,
        description="token for what is not public at the Hub; everybody who may create models can read it through this",
    )
    cache_bytes: int = Field(
        200 * GiB,
        ge=0,
        description="most bytes of the cache of bases by reference, and of the weights of one such base",
    )

    @property
    def hub(self) -> dict[str, str | None]:
        """How to reach the Hub, including the secret token."""
        token = self.hub_token.get_secret_value() if self.hub_token else None
        return {"endpoint": self.hub_endpoint, "hosts": self.hub_hosts, "token": token}

    @property
    def bucket_access(self) -> dict[str, str]:
        """How to reach the bucket, besides its address, including the secret key."""
        return {
            "endpoint": self.bucket_endpoint,
            "region": self.bucket_region,
            "key_id": self.bucket_key_id,
            "secret": self.bucket_secret.get_secret_value(),
        }

    @property
    def database(self) -> str:
        """The SQLAlchemy URL of the database."""
        if self.database_url is None:
            return f"sqlite:///{(self.data / 'registry.db').absolute()}"
        return self.database_url.replace("postgres://", "postgresql://", 1).replace(
            "postgresql://", "postgresql+psycopg://", 1
        )
