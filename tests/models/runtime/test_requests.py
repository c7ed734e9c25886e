from nextchar.models.runtime.requests import CompletionRequest


def test_a_request_of_a_prompt_alone_is_sampled_plainly() -> None:
    request = CompletionRequest(prompt="a")
    assert (request.max_characters, request.n, request.temperature, request.stream) == (40, 1, 1.0, True)
    assert (request.confidence_bits, request.length_penalty) == (2.0, 1.0)
    assert (request.presence_penalty, request.frequency_penalty) == (0.0, 0.0)
