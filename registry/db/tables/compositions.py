"""Tables of recipes, compositions and builds."""

import uuid
from datetime import datetime

from sqlalchemy import JSON, ForeignKey, Index, String, UniqueConstraint, false, text, true
from sqlalchemy.orm import Mapped, mapped_column, relationship

from registry.db.tables.contents import Blob
from registry.db.tables.declare import Table, key, now
from registry.db.tables.people import User


class Recipe(Table):
    """What to compose, by content alone: the digest is over the canonical form.

    `disputed` says that some builds of it differ, on whatever models.
    """

    __tablename__ = "recipes"
    __table_args__ = (
        Index("ix_recipes_disputed", "digest", sqlite_where=text("disputed = 1"), postgresql_where=text("disputed")),
    )

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    base_digest: Mapped[str] = mapped_column(String(71))
    alpha: Mapped[str] = mapped_column(String(64))
    method: Mapped[str] = mapped_column(String(16), default="sum", server_default="sum")
    disputed: Mapped[bool] = mapped_column(default=False, server_default=false())
    created_at: Mapped[datetime] = mapped_column(default=now)

    items: Mapped[list["RecipeItem"]] = relationship(
        lazy="raise", cascade="all, delete-orphan", passive_deletes=True, order_by="RecipeItem.sha256"
    )


class RecipeItem(Table):
    """One patch of a recipe and its weight, as normalised decimal text."""

    __tablename__ = "recipe_items"

    recipe_digest: Mapped[str] = mapped_column(ForeignKey("recipes.digest", ondelete="CASCADE"), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    weight: Mapped[str] = mapped_column(String(64))
    factors: Mapped[list[list[str]] | None] = mapped_column(JSON(none_as_null=True))

    @property
    def where(self) -> tuple[tuple[str, str], ...]:
        """Its weights by tensor, as an item of a recipe has them."""
        return tuple((glob, factor) for glob, factor in self.factors or ())


class Composition(Table):
    """The result of a recipe on one model. Its files are the composed weights and the other files of the base.

    `commit` is the Hub's name for these files. `warnings` are sentences for whoever uses the model.

    Its weights are on disk while it is `held`, and otherwise composed when they are read: its digests stay for ever,
    its bytes only while there is room. `used_at` is when they were last read, give or take some minutes; `reads` how
    often they were composed for readers since `counted_at`.
    """

    __tablename__ = "compositions"
    __table_args__ = (
        UniqueConstraint("model_id", "recipe_digest"),
        Index("ix_compositions_model_id_created_at", "model_id", "created_at"),
        Index(
            "ix_compositions_held_used_at",
            "used_at",
            sqlite_where=text("held = 1"),
            postgresql_where=text("held"),
        ),
    )

    id: Mapped[uuid.UUID] = key()
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    recipe_digest: Mapped[str] = mapped_column(ForeignKey("recipes.digest", ondelete="RESTRICT"), index=True)
    user_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("users.id", ondelete="RESTRICT"), index=True)
    weights_digest: Mapped[str] = mapped_column(String(71))
    commit: Mapped[str] = mapped_column(String(40), index=True)
    device: Mapped[str] = mapped_column(String(64))
    seconds: Mapped[float]
    warnings: Mapped[list[str]] = mapped_column(default=list, server_default="[]")
    held: Mapped[bool] = mapped_column(default=True, server_default=true())
    used_at: Mapped[datetime] = mapped_column(default=now)
    reads: Mapped[int] = mapped_column(default=0, server_default="0")
    counted_at: Mapped[datetime] = mapped_column(default=now)
    created_at: Mapped[datetime] = mapped_column(default=now)

    files: Mapped[list["CompositionFile"]] = relationship(
        lazy="raise", cascade="all, delete-orphan", passive_deletes=True, order_by="CompositionFile.path"
    )


class CompositionFile(Table):
    """One file of a composed model."""

    __tablename__ = "composition_files"

    composition_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("compositions.id", ondelete="CASCADE"), primary_key=True
    )
    path: Mapped[str] = mapped_column(String(255), primary_key=True)
    sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256", ondelete="RESTRICT"), index=True)

    blob: Mapped[Blob] = relationship(lazy="raise")


class Build(Table):
    """One builder's result of a recipe; `builder` is the name of a worker, or `user:<name>`.

    `nodes` are those who composed its files, where that is not the builder alone: workers of which one went on with
    what another had left, or nodes of a cluster.

    One that the primary of a mirror has `told` counts for its own model alone, also once the mirror is promoted.

    All builds of a recipe must agree; if two differ, that is an alarm, and nothing is published on the recipe.
    """

    __tablename__ = "builds"
    __table_args__ = (
        UniqueConstraint("model_id", "recipe_digest", "builder"),
        Index("ix_builds_recipe_digest_weights_digest", "recipe_digest", "weights_digest", "model_id", "user_id"),
    )

    id: Mapped[uuid.UUID] = key()
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    recipe_digest: Mapped[str] = mapped_column(ForeignKey("recipes.digest", ondelete="RESTRICT"))
    builder: Mapped[str] = mapped_column(String(200))
    user_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("users.id", ondelete="RESTRICT"), index=True)
    weights_digest: Mapped[str] = mapped_column(String(71))
    device: Mapped[str] = mapped_column(String(64))
    nodes: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    told: Mapped[bool] = mapped_column(default=False, server_default=false())
    created_at: Mapped[datetime] = mapped_column(default=now)

    user: Mapped[User | None] = relationship(lazy="raise")
