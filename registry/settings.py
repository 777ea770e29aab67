"""Settings of the server, frozen; nothing else in the server reads the environment."""

from email.utils import parseaddr
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, ByteSize, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MiB = 2**20
GiB = 2**30


class Settings(BaseSettings):
    """Everything that an operator can choose; each setting is an environment variable `REGISTRY_<NAME>`.

    Commands read a file, too (registry/cli/configuration.py). Sizes are in bytes, times in seconds, unless the name
    says otherwise.
    """

    model_config = SettingsConfigDict(env_prefix="REGISTRY_", frozen=True, extra="forbid", populate_by_name=True)

    data: Path = Field(Path("registry-data"), description="folder of the database (SQLite), blobs and staging files")
    umask: str = Field(
        "077",
        pattern="^[0-7]{3}$",
        description="what others may not do with new files, in octal: 077 keeps them from all other users, 007 lets "
        "the group of the folder in",
    )
    database_url: str | None = Field(
        None,
        validation_alias=AliasChoices("database_url", "DATABASE_URL", "REGISTRY_DATABASE_URL"),
        description="a SQLAlchemy URL; if unset, SQLite in the data folder",
    )
    json_bytes: ByteSize = Field(ByteSize(MiB), ge=0, description="largest JSON request body or form")
    anonymous_json_bytes: ByteSize = Field(ByteSize(MiB // 4), ge=0, description="the same without a token or sign-in")
    upload_bytes: ByteSize = Field(ByteSize(1024 * GiB), ge=0, description="largest single upload")
    quota_bytes: ByteSize = Field(
        ByteSize(4096 * GiB), ge=0, description="most bytes of a namespace: bases, patches, and announced uploads"
    )
    quota_uploads: int = Field(2000, description="most open uploads of a namespace")
    text_bytes: ByteSize = Field(
        ByteSize(8 * MiB),
        ge=0,
        description="most bytes of text that a user may write in a day: comments, reviews, evaluations, reports, "
        "recipes, titles, messages and cards",
    )
    part_bytes: ByteSize = Field(
        ByteSize(32 * MiB), ge=1, description="size of an upload part; larger for very large files"
    )
    reserve_bytes: ByteSize | None = Field(
        None,
        ge=0,
        description="bytes of the disk that uploads, caches and compositions leave free, so that the database can "
        "always write; if unset, a twentieth of the disk, at most 1 GiB",
    )
    scrub_days: float = Field(
        30, ge=0, description="days within which workers read every blob again, to find damage; 0 for never"
    )
    upload_hours: float = Field(24, description="hours after which an untouched upload session expires")
    body_seconds: float = Field(30, description="longest wait for the next bytes of a request body")
    body_rate: int = Field(
        1024,
        ge=0,
        description="fewest bytes per second of a request body, in each minute of waiting for it, and of an answer, in "
        "each REGISTRY_SEND_SECONDS of waiting for its client; 0 for no limit",
    )
    send_seconds: float = Field(60, gt=0, description="longest wait for a client to take the next bytes of an answer")
    registration: Literal["closed", "invitation", "open"] = Field(
        "invitation",
        description="how people join: closed (an admin or operator adds them), invitation (by links of admins and of "
        "owners of namespaces), or open (anybody may ask as well, and an admin approves)",
    )
    oidc_issuer: str = Field(
        "",
        pattern=r"^(huggingface|https?://[^?#\s]+)?$",
        description="OpenID provider that people sign in by: its address, like https://id.example.org/realms/ml, or "
        "huggingface; empty for none",
    )
    oidc_client_id: str = Field("", description="what the provider calls this registry")
    oidc_client_secret: SecretStr = Field(
        SecretStr(""), description="secret that the provider gave for it; empty for a public client"
    )
    oidc_groups: str = Field(
        "",
        pattern=r"^([^=:,]+=[a-z0-9._-]+:(contributor|reviewer|maintainer|owner)(,|$))*$",
        description="roles that groups at the provider give in organisations here, like "
        "speech=acme:maintainer,everybody=acme:contributor; whoever signs in by the provider has these roles there, "
        "and no others",
    )
    oidc_groups_claim: str = Field(
        "", description="claim with the groups of a person; if empty, groups, and orgs for huggingface"
    )
    oidc_scopes: str = Field("openid profile", description="scopes that the provider is asked for")
    oidc_name: str = Field("", description="name of the provider on pages; if empty, its host")
    oidc_join: Literal["everybody", "mapped", "invited"] = Field(
        "invited",
        description="who gets an account by signing in by the provider: everybody there, those with a role by "
        "REGISTRY_OIDC_GROUPS, or nobody without an invitation",
    )
    oidc_hours: float = Field(
        24,
        gt=0,
        description="hours after which whoever came by the provider has to sign in by it again, before any token of "
        "theirs works; so somebody who is removed there can do nothing here after that",
    )
    private_issuers: str = Field(
        "",
        description="issuers, separated by commas, that may be at http:// and at addresses that are not public: the "
        "provider that people sign in by, and those of trusted publishing",
    )
    rate_strangers: str = Field(
        "600/hour",
        description="most attempts of an address (an IPv6 /64) to join or to sign in by what is not a token: asking, "
        "invitations, codes and identity tokens; empty or 0 for no limit",
    )
    rate_asking: str = Field(
        "10/day",
        description="most requests for an account of an address (an IPv6 /64), since a person has to read each; and "
        "most links that confirm an e-mail address, of a user and to an address; empty or 0 for no limit",
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
    downloads_each: int = Field(
        64, ge=1, description="how many of those may go to one user, or without a token to one address (an IPv6 /64)"
    )
    header_seconds: float = Field(15, description="longest wait for a whole request header")
    lease_seconds: float = Field(
        30, description="how long a worker may be silent before another takes up its job; the same for all workers"
    )
    counts_seconds: float = Field(
        15.0, description="how long counts of everything are kept, for `crumb admin summary` and /metrics"
    )
    user_jobs: int = Field(100, ge=1, description="most jobs of a user that are queued or running")
    model_jobs: int = Field(1000, ge=1, description="most jobs of a model that are queued or running")
    poll_seconds: float = Field(0.5, description="how often an idle worker looks for a job of which nobody told it")
    job_attempts: int = Field(10, description="how many workers may die on a job before it counts as failed")
    job_still_seconds: float = Field(
        900,
        ge=0,
        description="how long a job may neither progress nor use a processor before it is killed and tried again; "
        "0 for ever",
    )
    job_memory: ByteSize | None = Field(
        None,
        description="most memory of a job's process, like 8GiB, or 0 for no limit; if unset, three quarters of the "
        "machine's",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where workers compose; auto takes a GPU if there is one"
    )
    device_memory: ByteSize | None = Field(
        None,
        description="most memory that a job uses on a GPU, like 8GiB; if unset, 4 GiB or a quarter of what is free",
    )
    proxies: str = Field(
        "127.0.0.1,::1",
        description="addresses and networks, separated by commas, of proxies in front of this server: what they say of "
        "a client's address and scheme (X-Forwarded-For, X-Forwarded-Proto) is believed; empty for nobody",
    )
    accel: str = Field(
        "",
        pattern=r"^((/[A-Za-z0-9_-]+)+)?$",
        description="internal location of an nginx among those proxies, like /_blobs, which has the folder `blobs` of "
        "the data folder and sends files in place of this server (X-Accel-Redirect); empty for none",
    )
    public_url: str = Field(
        "", description="address at which people reach the registry, like https://crumbs.example.org"
    )
    smtp_host: str = Field(
        "", pattern=r"^[A-Za-z0-9._:-]*$", description="mail server (SMTP) that sends people their news; empty for none"
    )
    smtp_port: int = Field(587, ge=1, le=65535, description="its port")
    smtp_security: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="how the connection to it is encrypted; none only on this machine or network"
    )
    smtp_user: str = Field("", description="name to sign in with at the mail server; empty for no sign-in")
    smtp_password: SecretStr = Field(SecretStr(""), description="password for that")
    mail_from: str = Field(
        "",
        pattern=r"^[^\r\n\x00]*$",
        description="whom mails come from, like news@crumbs.example.org; what cannot be delivered comes back there",
    )
    mail_hour: int = Field(6, ge=0, le=23, description="hour of the day, in UTC, at which daily mails are sent")
    webhook_private: bool = Field(False, description="allow webhooks to call http:// and addresses that are not public")
    metrics_token: SecretStr | None = Field(
        None, min_length=16, description="token of Prometheus for /metrics; an admin's token opens it too"
    )
    traces: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="where traces are sent by OTLP over HTTP, like http://127.0.0.1:4318/v1/traces; empty for nowhere; "
        "needs the extra otel, whose own OTEL_ variables set the rest",
    )
    log_format: Literal["json", "text"] = Field("json", description="one JSON object per line, or text for people")
    store: Literal["disk", "bucket"] = Field(
        "disk",
        description="where blobs are kept: on the disk of the data folder, or in REGISTRY_BUCKET, with a cache of "
        "REGISTRY_CACHE_BYTES in the folder; `crumb-server storage move` goes from one to the other",
    )
    bucket: str = Field("", description="bucket that serves downloads, like s3://name/prefix; empty for this server")
    bucket_endpoint: str = Field(
        "", description="address of an S3 server other than Amazon's, like https://s3.example.org"
    )
    bucket_public_endpoint: str = Field(
        "",
        description="address at which people reach that server, if it is another than the one that this server uses; "
        "only signed addresses have it",
    )
    bucket_region: str = Field("us-east-1", description="region that requests to the bucket are signed for")
    bucket_key_id: str = Field(
        "",
        description="id of the key that signs requests to the bucket; if unset, the credentials that this machine has: "
        "a role, a profile, or AWS_ variables",
    )
    bucket_secret: SecretStr = Field(SecretStr(""), description="secret of that key")
    bucket_session_token: SecretStr = Field(
        SecretStr(""), description="session token of that key, if it is one for a while"
    )
    bucket_seconds: int = Field(
        3600,
        ge=1,
        le=7 * 86400,
        description="how long a signed address of the bucket can be used, by anybody who has it",
    )
    bucket_least: ByteSize = Field(
        ByteSize(MiB), ge=1, description="smallest blob that is copied to the bucket; this server sends smaller ones"
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
    mirror_token: SecretStr | None = Field(
        None,
        description="token for the registry that `crumb-server mirror` follows, so that it gets private models, too",
    )
    mirror_keys: str = Field(
        "",
        description="public keys of maintainers, PEM files separated by colons: every signature of a release that is "
        "mirrored has to be by one of them; empty for any key",
    )
    mirror_hub_token: bool = Field(
        False,
        description="whether bases of models that are mirrored are read from the Hub with REGISTRY_HUB_TOKEN: what the "
        "token may read there, everybody can then read here whose primary names it",
    )
    hub_token: SecretStr | None = Field(
        None,
        description="token for what is not public at the Hub; everybody who may create models can read it through this",
    )
    composed_bytes: ByteSize = Field(
        ByteSize(200 * GiB),
        ge=0,
        description="most bytes of composed models on disk, like 200GiB; those used least recently go first, and are "
        "composed again when they are read; releases that channels point at, and pinned ones, stay",
    )
    cache_bytes: ByteSize = Field(
        ByteSize(200 * GiB),
        ge=0,
        description="most bytes of the cache of bases by reference, and of the weights of one such base",
    )

    @field_validator("hub_hosts", "oidc_groups", "private_issuers", "proxies", mode="before")
    @classmethod
    def join_list(cls, value: object) -> object:
        """Join a list, as a file may have it, by the commas of an environment variable."""
        return ",".join(map(str, value)) if isinstance(value, list) else value

    @field_validator("proxies")
    @classmethod
    def check_proxies(cls, value: str) -> str:
        """Refuse what is no address and no network, since a mistake would go unnoticed."""
        for part in value.split(",") if value else ():
            ip_network(part.strip())
        return value

    @field_validator("oidc_client_id")
    @classmethod
    def check_client(cls, value: str, known: ValidationInfo) -> str:
        """Refuse a provider that does not know this registry."""
        if known.data.get("oidc_issuer") and not value:
            raise ValueError("a provider needs one, REGISTRY_OIDC_CLIENT_ID")
        return value

    @field_validator("smtp_host")
    @classmethod
    def check_links(cls, value: str, known: ValidationInfo) -> str:
        """Refuse a mail server without the address that the links in mails need."""
        if value and not known.data.get("public_url"):
            raise ValueError("links in mails need REGISTRY_PUBLIC_URL")
        return value

    @field_validator("mail_from")
    @classmethod
    def check_sender(cls, value: str, known: ValidationInfo) -> str:
        """Refuse a mail server without a sender."""
        if known.data.get("smtp_host") and "@" not in parseaddr(value)[1]:
            raise ValueError("REGISTRY_SMTP_HOST needs an address that mails come from")
        return value

    @field_validator("smtp_user", "smtp_password")
    @classmethod
    def check_sign_in(cls, value: Any, known: ValidationInfo) -> Any:
        """Refuse what cannot be sent, and a password that would travel in clear."""
        said = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not said.isascii():
            raise ValueError("it can only be sent if it is ASCII")
        if said and known.data.get("smtp_security") == "none":
            raise ValueError("it needs a connection that REGISTRY_SMTP_SECURITY encrypts")
        return value

    @field_validator("accel")
    @classmethod
    def check_accel(cls, value: str, known: ValidationInfo) -> str:
        """Refuse a location without a proxy that could have it."""
        if value and not known.data.get("proxies"):
            raise ValueError("it needs a proxy, named in REGISTRY_PROXIES")
        return value

    @property
    def mail_server(self) -> dict[str, Any] | None:
        """How to reach the mail server, including the password; None if there is none."""
        if not self.smtp_host:
            return None
        password = self.smtp_password.get_secret_value()
        where = {"host": self.smtp_host, "port": self.smtp_port, "security": self.smtp_security}
        return {**where, "user": self.smtp_user, "password": password}

    @property
    def hub(self) -> dict[str, str | None]:
        """How to reach the Hub, including the secret token."""
        token = self.hub_token.get_secret_value() if self.hub_token else None
        return {"endpoint": self.hub_endpoint, "hosts": self.hub_hosts, "token": token}

    @property
    def hub_of_mirrored(self) -> dict[str, str | None]:
        """How to reach the Hub for models whose source another registry has named."""
        return self.hub if self.mirror_hub_token else {**self.hub, "token": None}

    @property
    def storage(self) -> dict[str, Any]:
        """Where blobs are kept, as `open_store` takes it."""
        return {
            "kind": self.store,
            "root": self.data,
            "reserve": self.reserve_bytes,
            "cache_bytes": self.cache_bytes,
        }

    @property
    def copies(self) -> str:
        """The address of the bucket that has copies of the blobs on disk; empty if there is none."""
        return self.bucket if self.store == "disk" else ""

    @property
    def bucket_access(self) -> dict[str, str]:
        """How to reach the bucket, besides its address, including the secret key."""
        return {
            "endpoint": self.bucket_endpoint,
            "public_endpoint": self.bucket_public_endpoint,
            "region": self.bucket_region,
            "key_id": self.bucket_key_id,
            "secret": self.bucket_secret.get_secret_value(),
            "session_token": self.bucket_session_token.get_secret_value(),
        }

    @property
    def oidc_title(self) -> str:
        """The name of that provider on pages; empty if there is none."""
        if not self.oidc_issuer:
            return ""
        host = self.oidc_issuer.partition("://")[2].partition("/")[0]
        return self.oidc_name or ("Hugging Face" if self.oidc_issuer == "huggingface" else host)

    @property
    def database(self) -> str:
        """The SQLAlchemy URL of the database."""
        if self.database_url is None:
            return f"sqlite:///{(self.data / 'registry.db').absolute()}"
        return self.database_url.replace("postgres://", "postgresql://", 1).replace(
            "postgresql://", "postgresql+psycopg://", 1
        )
