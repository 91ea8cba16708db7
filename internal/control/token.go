package control

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"hash"
	"io"
	"strconv"

	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// Authorize checks the access token of a request to a sandbox's data plane:
// errs.NotFound when there is no such sandbox, errs.Unauthenticated when the
// token is not its own. An insecure sandbox takes any. It reads memory only.
func (c *Control) Authorize(id sandbox.ID, token string) error {
	s, err := c.Get(id)
	if err != nil {
		return err
	}
	if s.Insecure {
		return nil
	}
	if token == "" {
		return errs.New(errs.Unauthenticated, "the access token is missing: send the sandbox's envdAccessToken in the X-Access-Token header")
	}
	if !equal(token, s.AccessToken) {
		return errs.New(errs.Unauthenticated, "the access token is not this sandbox's: take envdAccessToken from the reply to create or connect")
	}
	return nil
}

// equal compares secrets in constant time.
func equal(a, b string) bool {
	return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}

// FileSignature is what a signed file URL carries. Path, Op, User and
// Expiration are as in the query, after URL decoding.
type FileSignature struct {
	Path string
	// Op is read or write.
	Op   string
	User string
	// Expiration is in seconds since 1970; empty means never.
	Expiration string
	// Signature is "v1_" and the unpadded base64 of a SHA-256 (see signer).
	Signature string
}

const (
	// maxSigned bounds path, user and expiration together, in bytes: whoever
	// asks without a right to should not make the server hash much. Linux has no
	// longer paths.
	maxSigned = 4096
	// signatureSize is the length of every signature.
	signatureSize = len("v1_") + 43
)

// signer makes signatures of one file URL. What they have in common is hashed
// once, however many tokens are tried.
type signer struct {
	common hash.Cloner
	tail   string
}

// signer refuses what cannot be a signature, before anything is hashed.
func (f FileSignature) signer() (signer, error) {
	if len(f.Path)+len(f.User)+len(f.Expiration) > maxSigned {
		return signer{}, errs.New(errs.Invalid, "path, username and signature_expiration are longer than %d bytes together", maxSigned)
	}
	if len(f.Signature) != signatureSize {
		return signer{}, errBadSignature()
	}
	h := sha256.New().(hash.Cloner)
	_, _ = io.WriteString(h, f.Path+":"+f.Op+":"+f.User+":") // a hash takes everything
	s := signer{common: h}
	if f.Expiration != "" {
		s.tail = ":" + f.Expiration
	}
	return s, nil
}

// sign returns the signature made with a sandbox's token.
func (s signer) sign(token string) string {
	h, err := s.common.Clone()
	if err != nil {
		return "" // equals no signature; SHA-256 always can
	}
	_, _ = io.WriteString(h, token+s.tail)
	return "v1_" + base64.RawStdEncoding.EncodeToString(h.Sum(nil))
}

// AuthorizeFile checks a signed file URL of a known sandbox: errs.NotFound,
// errs.Unauthenticated (wrong, or expired) or errs.Invalid (too long). An
// insecure sandbox takes any.
func (c *Control) AuthorizeFile(id sandbox.ID, f FileSignature) error {
	s, err := c.Get(id)
	if err != nil {
		return err
	}
	if s.Insecure {
		return nil
	}
	by, err := f.signer()
	if err != nil {
		return err
	}
	if !equal(f.Signature, by.sign(s.AccessToken)) {
		return errBadSignature()
	}
	return c.checkExpiration(f)
}

// SandboxBySignature returns the sandbox whose token made the signature, since a
// signed URL need not say which sandbox it is for. errs.Unauthenticated when
// there is none or the signature has expired, errs.Invalid when it is too long.
// It costs one short hash per sandbox.
func (c *Control) SandboxBySignature(f FileSignature) (Sandbox, error) {
	by, err := f.signer()
	if err != nil {
		return Sandbox{}, err
	}
	for _, t := range c.tokens() {
		if !equal(f.Signature, by.sign(t.token)) {
			continue
		}
		s, err := c.Get(t.id)
		if err != nil {
			break // it ended meanwhile
		}
		return s, c.checkExpiration(f)
	}
	return Sandbox{}, errBadSignature()
}

type idToken struct {
	id    sandbox.ID
	token string
}

// tokens copies the tokens of all sandboxes that can be reached, so that nobody
// waits for the hashing. An insecure one has none: everybody could sign for it.
func (c *Control) tokens() []idToken {
	c.mu.RLock()
	defer c.mu.RUnlock()
	all := make([]idToken, 0, len(c.entries))
	for _, e := range c.entries {
		if listed(e.sandbox.State) && !e.sandbox.Insecure {
			all = append(all, idToken{e.sandbox.ID, e.sandbox.AccessToken})
		}
	}
	return all
}

func errBadSignature() error {
	return errs.New(errs.Unauthenticated, "the signature fits no running sandbox: sign the URL again with the sandbox's access token")
}

func (c *Control) checkExpiration(f FileSignature) error {
	if f.Expiration == "" {
		return nil
	}
	at, err := strconv.ParseInt(f.Expiration, 10, 64)
	if err != nil {
		return errs.New(errs.Invalid, "signature_expiration must be a number of seconds since 1970")
	}
	if c.opt.Now().Unix() > at {
		return errs.New(errs.Unauthenticated, "the signature has expired: sign the URL again")
	}
	return nil
}
