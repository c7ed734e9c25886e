"""/tokenizer_info, /tokenize and /detokenize, in the shapes of vLLM and llama.cpp.

lm-evaluation-harness's `local-completions` uses them to get token ids. It cannot name a model in these calls,
so each also exists below /v1/models/{model}, and so does /v1/completions: with
`base_url=…/v1/models/NAME/v1/completions` all of the harness's requests go to one model.
"""

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from nextchar.app.access.permissions import ModelReference
from nextchar.app.completions.requests import LONG_PROMPT_CHARACTERS, LongPrompts, prepare
from nextchar.app.completions.schemas import MAX_PROMPT_CHARACTERS
from nextchar.app.http.bodies import DocumentRoute
from nextchar.app.http.dependencies import cancel_on_disconnect
from nextchar.app.http.errors import error_responses
from nextchar.app.http.rules import needs
from nextchar.app.http.services import Services, ServicesDep
from nextchar.app.http.threads import run_in_thread
from nextchar.app.models.engines import Engines
from nextchar.app.models.names import model_or_default
from nextchar.app.openai.llama_cpp_schemas import (
    DetokenizeCreate,
    Detokenized,
    TokenizeCreate,
    TokenizerInfo,
    Tokens,
)
from nextchar.app.openai.requests import characters_of
from nextchar.models.text.vocabulary import Vocabulary

router = APIRouter(tags=["openai"], route_class=DocumentRoute)

_READ_ERRORS = error_responses(404, 422, 503)
_ERRORS = error_responses(400, 404, 413, 415, 422, 429, 503)


@router.get("/tokenizer_info", responses=_READ_ERRORS)
@router.get("/v1/models/{model}/tokenizer_info", responses=_READ_ERRORS, name="tokenizer_info_of_model")
@needs("read", "complete")
async def tokenizer_info(
    services: ServicesDep, request: Request, model: ModelReference = ""
) -> TokenizerInfo:
    """Get a description of a model's vocabulary."""
    reference, vocabulary = await _vocabulary(services, request, model)
    return TokenizerInfo(
        tokenizer_class=vocabulary.alphabet,
        model=reference,
        vocab_size=len(vocabulary),
        model_max_length=MAX_PROMPT_CHARACTERS,
    )


@router.post("/tokenize", response_model=Tokens, responses=_ERRORS)
@router.post(
    "/v1/models/{model}/tokenize", response_model=Tokens, responses=_ERRORS, name="tokenize_with_model"
)
@needs("complete")
async def tokenize(
    services: ServicesDep, request: Request, body: TokenizeCreate, model: ModelReference = ""
) -> Response:
    """Get the id of each character of a text, as the model reads it in a prompt."""
    name = await model_or_default(services, request, model or body.model)
    text = body.prompt if body.prompt is not None else body.content or ""
    async with services[Engines].use_async(name) as loaded:
        preparing = prepare(text, loaded, services[LongPrompts])
        is_long = len(text) > LONG_PROMPT_CHARACTERS
        characters, _ = await (cancel_on_disconnect(request, preparing) if is_long else preparing)
        return await run_in_thread(_tokens, loaded.vocabulary, characters)


@router.post("/detokenize", response_model=Detokenized, responses=_ERRORS)
@router.post(
    "/v1/models/{model}/detokenize",
    response_model=Detokenized,
    responses=_ERRORS,
    name="detokenize_with_model",
)
@needs("complete")
async def detokenize(
    services: ServicesDep, request: Request, body: DetokenizeCreate, model: ModelReference = ""
) -> Response:
    """Get the text of ids; 0 becomes U+FFFD."""
    _, vocabulary = await _vocabulary(services, request, model or body.model)
    return await run_in_thread(_text, vocabulary, body.tokens)


async def _vocabulary(services: Services, request: Request, model: str) -> tuple[str, Vocabulary]:
    name = await model_or_default(services, request, model)
    async with services[Engines].use_async(name) as loaded:
        return loaded.reference, loaded.vocabulary


def _tokens(vocabulary: Vocabulary, characters: str) -> Response:
    tokens = vocabulary.encode(characters).tolist()
    response = Tokens(count=len(tokens), max_model_len=MAX_PROMPT_CHARACTERS, tokens=tokens)
    return Response(response.model_dump_json(), media_type="application/json")


def _text(vocabulary: Vocabulary, tokens: Sequence[int]) -> Response:
    characters_of(tokens, vocabulary, param="tokens")  # raises InvalidInput for unknown ids
    text = vocabulary.to_text(vocabulary.decode(tokens))
    return Response(Detokenized(prompt=text, content=text).model_dump_json(), media_type="application/json")
