import pytest

from nextchar.models.architectures.lazy import _Lazy


def test_names_that_tools_look_up_import_nothing() -> None:
    module = _Lazy("a_module_that_is_not_there")
    assert not hasattr(module, "__test__") and not hasattr(module, "_mock_name")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        _ = module.Dense


def test_other_names_are_the_modules() -> None:
    assert _Lazy("json").dumps([1]) == "[1]"
