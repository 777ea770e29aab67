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
    open_uploads: int = Field(2000, description="most open upload sessions of one user")
    open_upload_bytes: int = Field(4096 * GiB, description="most bytes announced in open sessions of one user")
    part_bytes: int = Field(32 * MiB, ge=1, description="size of an upload part, before very large files raise it")
    upload_hours: float = Field(24, description="hours after which an untouched upload session expires")
    body_seconds: float = Field(30, description="longest wait for the next bytes of a request body")
    header_seconds: float = Field(15, description="longest wait for a whole request header")
    lease_seconds: float = Field(30, description="a job whose worker is silent this long is taken up again")
    poll_seconds: float = Field(0.5, description="how often an idle worker looks for a job")
    job_attempts: int = Field(10, description="workers a job may outlive before it counts as failed")
    job_memory: int | None = Field(None, description="address space limit of a job's process")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    device_memory: ByteSize | None = Field(
        None, description="most memory a job uses on a GPU, like 8GiB; 4 GiB or a quarter of what is free when unset"
    )
    log_format: Literal["json", "text"] = "json"

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in use."""
        if self.database_url is None:
            return f"sqlite:///{(self.data / 'registry.db').absolute()}"
        return self.database_url.replace("postgres://", "postgresql://", 1).replace(
            "postgresql://", "postgresql+psycopg://", 1
        )
