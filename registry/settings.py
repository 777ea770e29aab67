"""Frozen settings; the only reader of the environment on the server."""

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, ByteSize, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

MiB = 2**20
GiB = 2**30


class Settings(BaseSettings):
    """Everything an operator can choose; each is an environment variable `REGISTRY_<NAME>`.

    Sizes are bytes, times are seconds unless the name says otherwise.
    """

    model_config = SettingsConfigDict(env_prefix="REGISTRY_", frozen=True, extra="forbid", populate_by_name=True)

    data: Path = Path("registry-data")
    database_url: str | None = Field(
        None,
        validation_alias=AliasChoices("database_url", "DATABASE_URL", "REGISTRY_DATABASE_URL"),
        description="a SQLAlchemy URL; SQLite in the data folder when unset",
    )
    json_bytes: int = Field(MiB, description="largest JSON request body")
    upload_bytes: int = Field(1024 * GiB, description="largest single upload")
    quota_bytes: int = Field(4096 * GiB, description="most bytes of a namespace, announced uploads among them")
    quota_uploads: int = Field(2000, description="most open uploads of a namespace")
    part_bytes: int = Field(32 * MiB, ge=1, description="size of an upload part, before very large files raise it")
    upload_hours: float = Field(24, description="hours after which an untouched upload session expires")
    body_seconds: float = Field(30, description="longest wait for the next bytes of a request body")
    body_rate: int = Field(
        1024,
        ge=0,
        description="fewest bytes per second of a request body, in each minute of waiting for it; 0 for none",
    )
    rate_address: str = Field(
        "12000/minute",
        description="most requests of an address (an IPv6 /64), with a token or not; empty or 0 for no limit",
    )
    rate_token: str = Field(
        "6000/minute",
        description="most requests with a token; eight connections that send parts of 32 MiB at 10 Gbit/s need 2,300 a "
        "minute, pulling a model of 1,000 files 1,100, pushing it 3,100; empty or 0 for no limit",
    )
    downloads_at_once: int = Field(512, ge=1, description="files sent at a time; who asks for more comes back later")
    header_seconds: float = Field(15, description="longest wait for a whole request header")
    lease_seconds: float = Field(30, description="a job whose worker is silent this long is taken up again")
    poll_seconds: float = Field(0.5, description="how often an idle worker looks for a job")
    job_attempts: int = Field(10, description="workers a job may outlive before it counts as failed")
    job_memory: int | None = Field(None, description="address space limit of a job's process")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    device_memory: ByteSize | None = Field(
        None, description="most memory a job uses on a GPU, like 8GiB; 4 GiB or a quarter of what is free when unset"
    )
    public_url: str = Field("", description="where people reach the registry, like https://crumbs.example.org")
    webhook_private: bool = Field(False, description="let webhooks call http:// and addresses that are not public")
    log_format: Literal["json", "text"] = "json"
    bucket: str = Field(
        "", description="where downloads come from, like s3://name/prefix; empty for this server; needs a key"
    )
    bucket_endpoint: str = Field("", description="another S3 server than Amazon's, like https://s3.example.org")
    bucket_region: str = Field("us-east-1", description="the region that requests to the bucket are signed for")
    bucket_key_id: str = ""
    bucket_secret: SecretStr = SecretStr("")
    bucket_seconds: int = Field(
        3600, ge=1, le=7 * 86400, description="how long an address of the bucket is good for, for whoever has it"
    )
    bucket_least: int = Field(MiB, ge=1, description="smallest blob that goes there; others are sent by this server")

    hub_endpoint: str = Field(
        "https://huggingface.co",
        pattern=r"^https?://[^/@?#\s]+$",
        description="the Hub that bases by reference are at; no other is asked",
    )
    hub_hosts: str = Field(
        "*.hf.co,*.huggingface.co",
        pattern=r"^[a-z0-9.*:,-]*$",
        description="where the Hub may redirect downloads to: name, name:port or *.name, with commas between",
    )
    hub_token: SecretStr | None = Field(
        None, description="for what is not public there; whoever may create a model can read with it what it can read"
    )
    cache_bytes: int = Field(
        200 * GiB, ge=0, description="most bytes kept of bases by reference, and most weights that one of them may have"
    )

    @property
    def hub(self) -> dict[str, str | None]:
        """What reaches the Hub; the secret is in it."""
        token = self.hub_token.get_secret_value() if self.hub_token else None
        return {"endpoint": self.hub_endpoint, "hosts": self.hub_hosts, "token": token}

    @property
    def bucket_access(self) -> dict[str, str]:
        """What reaches the bucket, besides its address; the secret is in it."""
        return {
            "endpoint": self.bucket_endpoint,
            "region": self.bucket_region,
            "key_id": self.bucket_key_id,
            "secret": self.bucket_secret.get_secret_value(),
        }

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in use."""
        if self.database_url is None:
            return f"sqlite:///{(self.data / 'registry.db').absolute()}"
        return self.database_url.replace("postgres://", "postgresql://", 1).replace(
            "postgresql://", "postgresql+psycopg://", 1
        )
