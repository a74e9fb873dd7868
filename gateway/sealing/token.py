"""Master keys that never leave a hardware security module (PKCS#11).

The data keys go to the token and come back wrapped (CKM_AES_GCM); the master key
is made in it and cannot be taken out. The source is a URI of RFC 7512::

    pkcs11:token=hospital;object=miad?module-path=/usr/lib/hsm.so&pin-source=file:pin
"""

from __future__ import annotations

import hashlib
import importlib
import os
import threading
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Final

from gateway.errors import ConfigurationError, InvalidSeal, KeyUnavailable
from gateway.sealing.master import (
    KEY_ID_DIGITS,
    KEY_ID_LABEL,
    KEY_LENGTH,
    NONCE_LENGTH,
    TAG_LENGTH,
    WRAPPED_LENGTH,
    MasterKey,
)
from gateway.sealing.providers import read_secret
from gateway.sealing.token_uri import TokenUri, parse_uri

if TYPE_CHECKING:
    from pathlib import Path

    import pkcs11

    from gateway.sealing.providers import Environment, Provider

CALLS: Final = threading.RLock()
"""Held during every call into a module: python-pkcs11 initialises them without
locks of their own, and a process has each module, and each log-in, only once."""


class Token:
    """A key in a token, through one session that is opened again when it is lost.

    Safe for threads.

    Parameters
    ----------
    uri
        Where the key is.
    pin
        Gives the PIN; called at every log-in; None for tokens without.
    """

    def __init__(self, uri: TokenUri, pin: Callable[[], bytes] | None) -> None:
        self._uri = uri
        self._pin = pin
        self._library = import_library()
        self._session: pkcs11.Session | None = None
        self._key: Any = None
        self._was_open = False

    def encrypt(self, octets: bytes, nonce: bytes, context: bytes) -> bytes:
        """AES-256-GCM in the token; octets and tag.

        Raises
        ------
        KeyUnavailable
            The token does not answer, also not over a new session.
        """
        parameters = self._library.GCMParams(nonce, context, 8 * TAG_LENGTH)
        try:
            return self._encrypt(octets, parameters)
        except KeyUnavailable:
            self._session = self._key = None  # lost, as after a restart of the token
            return self._encrypt(octets, parameters)

    def decrypt(self, octets: bytes, nonce: bytes, context: bytes) -> bytes:
        """Undo `encrypt`.

        Raises
        ------
        KeyUnavailable
            The token refuses the octets, or does not answer: many do not say which.
        """
        parameters = self._library.GCMParams(nonce, context, 8 * TAG_LENGTH)
        mechanism = self._library.Mechanism.AES_GCM
        return self._call(
            lambda key: key.decrypt(
                octets, mechanism=mechanism, mechanism_param=parameters
            )
        )

    def _encrypt(self, octets: bytes, parameters: object) -> bytes:
        mechanism = self._library.Mechanism.AES_GCM
        return self._call(
            lambda key: key.encrypt(
                octets, mechanism=mechanism, mechanism_param=parameters
            )
        )

    def _call(self, work: Callable[[Any], bytes]) -> bytes:
        with CALLS:
            key = self._open()
            try:
                return work(key)
            except self._library.exceptions.PKCS11Error as error:
                raise _unavailable(self._uri, error) from error

    def _open(self) -> Any:  # noqa: ANN401 - made by the library at run time
        if self._key is not None:
            return self._key
        try:
            session = open_session(self._uri, self._pin, self._library)
            self._key = _find_key(session, self._uri, self._library)
        except ConfigurationError as error:
            if not self._was_open:
                raise
            raise KeyUnavailable(str(error)) from error  # it was right at the start
        self._session = session  # kept open with its key
        self._was_open = True
        return self._key


class TokenMasterKey:
    """Master key in a token; see `MasterKey`."""

    def __init__(self, token: Token) -> None:
        self._token = token
        self._key_id = self._derived_id()

    @property
    def key_id(self) -> str:
        """16 hex digits, the same wherever the key is; they tell nothing of it."""
        return self._key_id

    def wrap(self, data_key: bytes, context: bytes) -> bytes:
        """Encrypt a data key to 60 octets that open for this context only."""
        nonce = os.urandom(NONCE_LENGTH)
        return nonce + self._token.encrypt(data_key, nonce, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Decrypt what `wrap` gave.

        Raises
        ------
        InvalidSeal
            Another master key, another context, or altered octets.
        KeyUnavailable
            The token does not answer.
        """
        if len(wrapped) != WRAPPED_LENGTH:
            raise InvalidSeal("the data key does not open")
        nonce, sealed = wrapped[:NONCE_LENGTH], wrapped[NONCE_LENGTH:]
        try:
            return self._token.decrypt(sealed, nonce, context)
        except KeyUnavailable:
            # The token's fault, or that of the octets? Where it still does what it
            # did before, over a new session if need be, they are asked again.
            if self._derived_id() != self._key_id:
                raise
        try:
            return self._token.decrypt(sealed, nonce, context)
        except KeyUnavailable as error:
            raise InvalidSeal("the data key does not open") from error

    def _derived_id(self) -> str:
        # One fixed message under a nonce of zeros: it is always the same, so it
        # adds nothing to what the random nonces of `wrap` give away, and only its
        # digest is ever seen.
        mark = self._token.encrypt(KEY_ID_LABEL, bytes(NONCE_LENGTH), KEY_ID_LABEL)
        return hashlib.sha256(mark).hexdigest()[:KEY_ID_DIGITS]


class TokenProvider:
    """A master key in a token; opened once."""

    def __init__(self, uri: TokenUri, pin: Callable[[], bytes] | None) -> None:
        self._uri = uri
        self._pin = pin
        self._loaded: MasterKey | None = None

    def load(self) -> MasterKey:
        """Find the key; it stays where it is."""
        with CALLS:
            if self._loaded is None:
                self._loaded = TokenMasterKey(Token(self._uri, self._pin))
            return self._loaded

    def stamp(self) -> Hashable:
        """Return what never changes: another key has another label."""
        return str(self._uri)


def token_provider(
    uri: str, base_directory: Path, environment: Environment
) -> Provider:
    """Return the provider of a ``pkcs11:`` source; see `parse_uri`."""
    parsed = parse_uri(uri, base_directory)
    return TokenProvider(parsed, _pin_of(parsed, base_directory, environment))


def make_token_key(uri: str, base_directory: Path, environment: Environment) -> str:
    """Make a master key in a token: AES-256, sensitive, not extractable.

    Parameters
    ----------
    uri
        Token, and the label (``object``) and perhaps id the key shall have.
    base_directory, environment
        As in `token_provider`.

    Returns
    -------
    str
        Name of the key.

    Raises
    ------
    ConfigurationError
        There is such a key already, or the token refuses to make one.
    """
    parsed = parse_uri(uri, base_directory)
    library = import_library()
    pin = _pin_of(parsed, base_directory, environment)
    with CALLS:
        session = open_session(parsed, pin, library, writable=True)
        _refuse_second(session, parsed, library)
        attribute = library.Attribute
        try:
            session.generate_key(
                library.KeyType.AES,
                8 * KEY_LENGTH,
                id=parsed.key_id or None,
                label=parsed.label or None,
                store=True,
                capabilities=library.MechanismFlag.ENCRYPT
                | library.MechanismFlag.DECRYPT,
                template={
                    attribute.SENSITIVE: True,
                    attribute.EXTRACTABLE: False,
                    attribute.PRIVATE: True,
                    attribute.MODIFIABLE: False,
                },
            )
        except library.exceptions.PKCS11Error as error:
            raise ConfigurationError(
                f"{parsed}: the token makes no such key ({_name(error)}); it must "
                "know CKM_AES_KEY_GEN and let this user write"
            ) from error
        return TokenMasterKey(Token(parsed, pin)).key_id


def import_library() -> Any:  # noqa: ANN401 - an optional package
    """Import python-pkcs11, which only sites with a token need.

    Raises
    ------
    ConfigurationError
        It is not installed.
    """
    try:
        return importlib.import_module("pkcs11")
    except ImportError as error:
        raise ConfigurationError(
            "a master key in a token needs the package python-pkcs11; run: "
            'pip install "miad-gateway[pkcs11]"'
        ) from error


def open_session(
    uri: TokenUri,
    pin: Callable[[], bytes] | None,
    library: Any,  # noqa: ANN401 - as above
    *,
    writable: bool = False,
) -> Any:  # noqa: ANN401 - as above
    """Open a session on a token and log in, unless this process is logged in.

    Raises
    ------
    ConfigurationError
        The module cannot be loaded, has no such token, or refuses the PIN.
    KeyUnavailable
        The token does not answer.
    """
    errors = library.exceptions
    secret = None if pin is None else _as_text(pin(), uri)
    with CALLS:
        try:
            token = _find_token(uri, library)
            try:
                return token.open(rw=writable, user_pin=secret)
            except errors.UserAlreadyLoggedIn:
                return token.open(rw=writable)
        except (errors.PinIncorrect, errors.PinInvalid, errors.PinLenRange) as error:
            raise ConfigurationError(
                f"{uri}: the token refuses the PIN; put the right one into "
                f"{uri.pin_source}, before it locks"
            ) from error
        except errors.PinLocked as error:
            raise ConfigurationError(
                f"{uri}: the PIN is locked; the token's security officer unlocks it"
            ) from error
        except errors.PKCS11Error as error:
            raise _unavailable(uri, error) from error


def _find_token(uri: TokenUri, library: Any) -> Any:  # noqa: ANN401
    errors = library.exceptions
    try:
        module = library.lib(str(uri.module))
    except (OSError, RuntimeError) as error:
        raise ConfigurationError(
            f"PKCS#11 module {uri.module} cannot be loaded ({_name(error)}); name the "
            "module of your token in module-path="
        ) from error
    try:
        return module.get_token(
            token_label=uri.token or None,
            token_serial=uri.serial.encode() or None,
        )
    except (errors.NoSuchToken, errors.MultipleTokensReturned) as error:
        seen = ", ".join(sorted(repr(each.label) for each in module.get_tokens()))
        raise ConfigurationError(
            f"{uri}: {uri.module} has no such token, or several; it has: "
            f"{seen or 'none'}"
        ) from error


def _find_key(session: Any, uri: TokenUri, library: Any) -> Any:  # noqa: ANN401
    errors, attribute = library.exceptions, library.Attribute
    try:
        key = session.get_key(
            object_class=library.ObjectClass.SECRET_KEY,
            key_type=library.KeyType.AES,
            label=uri.label or None,
            id=uri.key_id or None,
        )
        fit = (
            key[attribute.VALUE_LEN] == KEY_LENGTH
            and not key[attribute.EXTRACTABLE]
            and key[attribute.SENSITIVE]
        )
    except (errors.NoSuchKey, errors.MultipleObjectsReturned) as error:
        raise ConfigurationError(
            f"{uri}: the token has no such AES key, or several, for this PIN; make "
            "one with: miad-gateway keys make-in-token"
        ) from error
    except errors.PKCS11Error as error:
        raise _unavailable(uri, error) from error
    if not fit:
        raise ConfigurationError(
            f"{uri}: not an AES-256 key that is sensitive and cannot be extracted; "
            "make one with: miad-gateway keys make-in-token"
        )
    return key


def _refuse_second(session: Any, uri: TokenUri, library: Any) -> None:  # noqa: ANN401
    attribute = library.Attribute
    wanted = {attribute.CLASS: library.ObjectClass.SECRET_KEY}
    if uri.label:
        wanted[attribute.LABEL] = uri.label
    if uri.key_id:
        wanted[attribute.ID] = uri.key_id
    if next(iter(session.get_objects(wanted)), None) is not None:
        raise ConfigurationError(
            f"{uri}: the token has such a key already; choose another object= label"
        )


def _pin_of(
    uri: TokenUri, base_directory: Path, environment: Environment
) -> Callable[[], bytes] | None:
    if not uri.pin_source:
        return None
    return lambda: read_secret(uri.pin_source, base_directory, environment)


def _as_text(pin: bytes, uri: TokenUri) -> str:
    try:
        return pin.decode()
    except UnicodeDecodeError:
        raise ConfigurationError(
            f"{uri}: the PIN in {uri.pin_source} is not UTF-8; put the right one there"
        ) from None


def _unavailable(uri: TokenUri, error: Exception) -> KeyUnavailable:
    return KeyUnavailable(
        f"{uri}: the token does not do it ({_name(error)}); see that it is connected, "
        "that this user may log in, and that it knows CKM_AES_GCM"
    )


def _name(error: Exception) -> str:
    """Return the kind of an error; its text may hold what was asked of the token."""
    return type(error).__name__
