"""Session handles: a model's state as signed text, so that the server keeps nothing.

A handle is `base64url(header, leaves, tag)`: a line of JSON that names the model and the shapes,
the bytes of the arrays, and their HMAC-SHA256 (RFC 2104). It is signed, not encrypted: who holds it
can read the numbers, which tell something of the text, but cannot change them.
"""

import base64
import binascii
import hashlib
import hmac
import json
from typing import Any

import jax
import numpy as np

from jaxgen.generation.carry import PromptState
from jaxgen.generation.guidance import Guidance, GuidedInitialCarry
from jaxgen.serving.problems import Problem

_TAG = hashlib.sha256().digest_size
_VERSION = 1


def model_fingerprint(model: Any) -> str:
    """A hash that two language models share only if their parameters and vocabularies are equal."""
    digest = hashlib.sha256(model.tokenizer.fingerprint.encode())
    leaves, _ = jax.tree_util.tree_flatten_with_path(model.params)
    for name, leaf in leaves:
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(name)}{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()[:16]


def sign(state: PromptState, fingerprint: str, key: bytes) -> str:
    """A state of one row as a handle."""
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    header = {
        "version": _VERSION,
        "model": fingerprint,
        "guided": hasattr(state.carry, "weights"),
        "leaves": [[str(array.dtype), array.shape] for array in arrays],
    }
    body = b"".join([json.dumps(header).encode(), b"\n", *(array.tobytes() for array in arrays)])
    tag = hmac.digest(key, body, "sha256")
    return base64.urlsafe_b64encode(body + tag).decode()


def verify(handle: str, model: Any, fingerprint: str, key: bytes) -> PromptState:
    """The state in a handle.

    Args:
        handle: from `sign`, perhaps of another server with the same key.
        model: the language model that continues.
        fingerprint: its `model_fingerprint`.
        key: what it was signed with.

    Raises:
        Problem: 422 where it is no handle, was signed with another key or changed since, or is of
            another model.
    """
    try:
        signed = base64.b64decode(handle.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        signed = b""
    body, tag = signed[:-_TAG], signed[-_TAG:]
    if not hmac.compare_digest(hmac.digest(key, body, "sha256"), tag):
        raise _refused(
            "`session` must be a handle as this server, or one that shares its session key, gave "
            "it; read the prompt again with POST /v1/sessions"
        )
    line, _, data = body.partition(b"\n")
    header = json.loads(line)
    if header["version"] != _VERSION or header["model"] != fingerprint:
        raise _refused(
            "`session` must be of the model that continues it, and this one is of another model; "
            "read the prompt again with POST /v1/sessions"
        )
    leaves, start = [], 0
    for name, shape in header["leaves"]:
        dtype = np.dtype(name)  # bfloat16 too, which JAX has made known to NumPy
        end = start + dtype.itemsize * int(np.prod(shape))
        leaves.append(np.frombuffer(data[start:end], dtype).reshape(shape))
        start = end
    state: PromptState = jax.tree.unflatten(_structure(model, header["guided"]), leaves)
    return state


def _structure(model: Any, guided: bool) -> Any:
    """The tree of a model's state, without computing one."""
    null = np.zeros(1, np.int32)
    condition: Any = null if model.num_labels else None
    initial_carry = model.initial_carry
    if guided:
        initial_carry = GuidedInitialCarry(initial_carry)
        condition = Guidance(null[:, None], null[0], np.ones((1, 1), np.float32))

    def state(params: Any, condition: Any, token: Any) -> PromptState:
        return PromptState(initial_carry(params, 1, condition), token)

    return jax.tree.structure(jax.eval_shape(state, model.params, condition, null))


def _refused(detail: str) -> Problem:
    return Problem(422, detail, field="session")
