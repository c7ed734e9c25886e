from redis import Redis

from nextchar.store.recorded_prompts import TTL_S, RecordedPrompts


def test_the_newest_prompts_of_each_model_are_kept(redis: Redis) -> None:
    prompts = RecordedPrompts(redis, 3)
    prompts.add("m", ["a", "b"])
    prompts.add("m", [])
    prompts.add("n", ["x"])
    assert (prompts.all("m"), prompts.all("n"), prompts.all("o")) == (["b", "a"], ["x"], [])
    prompts.add("m", ["c", "d"])
    assert prompts.all("m") == ["d", "c", "b"]
    assert 0 < redis.ttl("nextchar:prompts:m") <= TTL_S
    assert sorted(prompts.models()) == ["m", "n"]
    prompts.delete("m")
    assert (prompts.all("m"), prompts.models()) == ([], ["n"])


def test_with_a_limit_of_0_nothing_is_recorded(redis: Redis) -> None:
    prompts = RecordedPrompts(redis, 0)
    prompts.add("m", ["a"])
    assert prompts.all("m") == [] == prompts.models()


def test_models_are_found_among_many_other_keys(redis: Redis) -> None:
    redis.mset({f"nextchar:other:{number}": "" for number in range(3000)})
    prompts = RecordedPrompts(redis, 2)
    for name in ("a", "b"):
        prompts.add(name, ["x"])
    assert sorted(prompts.models()) == ["a", "b"]
    assert "redis" not in repr(prompts).casefold()
