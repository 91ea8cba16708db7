package control

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strconv"

	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// Authorize checks the access token of a request to a sandbox's data plane:
// errs.NotFound when there is no such sandbox, errs.Unauthenticated when the
// token is not its own. It reads memory only.
func (c *Control) Authorize(id sandbox.ID, token string) error {
	s, err := c.Get(id)
	if err != nil {
		return err
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
	// Signature is "v1_" and the unpadded base64 of a SHA-256 (see of).
	Signature string
}

// of returns the signature made with a sandbox's token.
func (f FileSignature) of(token string) string {
	text := f.Path + ":" + f.Op + ":" + f.User + ":" + token
	if f.Expiration != "" {
		text += ":" + f.Expiration
	}
	sum := sha256.Sum256([]byte(text))
	return "v1_" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// AuthorizeFile checks a signed file URL of a known sandbox: errs.NotFound or
// errs.Unauthenticated (wrong, or expired).
func (c *Control) AuthorizeFile(id sandbox.ID, f FileSignature) error {
	s, err := c.Get(id)
	if err != nil {
		return err
	}
	if !equal(f.Signature, f.of(s.AccessToken)) {
		return errBadSignature()
	}
	return c.checkExpiration(f)
}

// SandboxBySignature returns the sandbox whose token made the signature, since a
// signed URL need not say which sandbox it is for. errs.Unauthenticated when
// there is none or the signature has expired. It costs one hash per sandbox.
func (c *Control) SandboxBySignature(f FileSignature) (Sandbox, error) {
	s, ok := c.findSigner(f)
	if !ok {
		return Sandbox{}, errBadSignature()
	}
	return s, c.checkExpiration(f)
}

func (c *Control) findSigner(f FileSignature) (Sandbox, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, e := range c.entries {
		if listed(e.sandbox.State) && equal(f.Signature, f.of(e.sandbox.AccessToken)) {
			return e.sandbox, true
		}
	}
	return Sandbox{}, false
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
