"""Search by parts of names, which must find what a look at every name would find."""

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from registry.db.tables import Model, ModelTrigram, Namespace
from registry.services.catalog import search
from tests.support.world import World, add_model

NAMES = ("tiny-llama", "tiny.qwen", "a", "ab", "llama_2", "x-100")


def found(world: World, word: str) -> set[str]:
    with world.database.read() as session:
        query = select(Model).join(Namespace, Namespace.id == Model.namespace_id).where(search.containing(word))
        return {model.full_name for model in session.scalars(query)}


def test_a_word_finds_the_names_that_contain_it(world: World) -> None:
    for name in NAMES:
        add_model(world, name)
    every = {f"alice/{name}" for name in NAMES}

    @settings(max_examples=60)
    @given(st.one_of(st.text("alitny-._/%2x0AL", max_size=6), st.sampled_from(["LLAMA", "e/tiny", "%", "_", "zzz"])))
    def check(word: str) -> None:
        assert found(world, word) == {name for name in every if word.lower() in name}

    check()


def test_a_name_is_looked_up_and_goes_with_its_model(world: World) -> None:
    add_model(world, "tiny-llama")
    with world.database.write() as session:
        assert session.query(ModelTrigram).count() == len(set(search.trigrams("alice/tiny-llama")))
        session.query(ModelTrigram).filter_by(trigram="lla").delete()
    assert found(world, "llama") == set()  # the index is asked, not every name
    with world.database.write() as session:
        session.delete(session.scalars(select(Model)).one())
        session.flush()
        assert session.query(ModelTrigram).count() == 0
