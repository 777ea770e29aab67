"""Frozen settings; the only reader of the environment on the server."""

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, ByteSize, Field
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

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in use."""
        if self.database_url is None:
            return f"sqlite:///{(self.data / 'registry.db').absolute()}"
        return self.database_url.replace("postgres://", "postgresql://", 1).replace(
            "postgresql://", "postgresql+psycopg://", 1
        )
