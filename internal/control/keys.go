package control

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/store"
)

// Key is an API key without its text.
type Key = store.Key

const (
	keyPrefix  = "e2b_"
	maxKeyName = 128
)

// keyPattern is what every version of the official SDKs accepts as a key.
var keyPattern = regexp.MustCompile(`^e2b_[0-9a-f]{40}$`)

// NewKeyText returns the text of a fresh API key: e2b_ and 160 random bits.
func NewKeyText() string { return keyPrefix + newToken() }

// keyring holds the API keys in memory.
type keyring struct {
	// change serialises what writes the store.
	change sync.Mutex

	mu     sync.RWMutex
	byHash map[[32]byte]*liveKey
}

// liveKey is a key and when it was last used, of which the store learns later.
type liveKey struct {
	key         Key
	used, saved atomic.Int64 // nanoseconds since 1970, 0 for never
}

func newLiveKey(k Key) *liveKey {
	l := &liveKey{key: k}
	if !k.LastUsed.IsZero() {
		l.used.Store(k.LastUsed.UnixNano())
		l.saved.Store(k.LastUsed.UnixNano())
	}
	return l
}

// snapshot returns the key with its last use.
func (l *liveKey) snapshot() Key {
	k := l.key
	if used := l.used.Load(); used != 0 {
		k.LastUsed = time.Unix(0, used).UTC().Truncate(time.Millisecond)
	}
	return k
}

func (r *keyring) load(ctx context.Context, s store.Keys) error {
	keys, err := s.Keys(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range keys {
		r.byHash[k.Hash] = newLiveKey(k)
	}
	return nil
}

func (r *keyring) all() []*liveKey {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make([]*liveKey, 0, len(r.byHash))
	for _, l := range r.byHash {
		all = append(all, l)
	}
	return all
}

// flush tells the store when keys were last used.
func (r *keyring) flush(ctx context.Context, s store.Keys) (err error) {
	for _, l := range r.all() {
		used := l.used.Load()
		if used == l.saved.Load() {
			continue
		}
		if e := s.TouchKey(ctx, l.key.ID, time.Unix(0, used).UTC()); e != nil {
			err = errors.Join(err, e)
			continue
		}
		l.saved.Store(used)
	}
	return err
}

// Authenticate returns the API key with this text and notes its use, else
// errs.Unauthenticated. It reads memory only.
func (c *Control) Authenticate(text string) (Key, error) {
	// Looking up a hash leaks nothing of the text through time.
	hash := sha256.Sum256([]byte(text))
	c.keys.mu.RLock()
	l, ok := c.keys.byHash[hash]
	c.keys.mu.RUnlock()
	if !ok {
		return Key{}, errs.New(errs.Unauthenticated, "this API key is not known here: \"sandlot env\" prints one that is, \"sandlot key create\" makes another")
	}
	l.used.Store(c.opt.Now().UnixNano())
	return l.snapshot(), nil
}

// CreateKey makes an API key and returns it with its text, which is kept
// nowhere. When it returns, the key survives a power cut.
func (c *Control) CreateKey(ctx context.Context, name string) (k Key, text string, err error) {
	text = NewKeyText()
	k, err = c.AdoptKey(ctx, name, text)
	return k, text, err
}

// AdoptKey makes text (of the form NewKeyText returns) an API key. If it is one
// already, that key is returned; so it can be repeated after a crash.
func (c *Control) AdoptKey(ctx context.Context, name, text string) (Key, error) {
	leave, err := c.enter()
	if err != nil {
		return Key{}, err
	}
	defer leave()
	name = strings.TrimSpace(name)
	if err := checkKey(name, text); err != nil {
		return Key{}, err
	}
	k := c.describeKey(name, text)
	c.keys.change.Lock()
	defer c.keys.change.Unlock()
	if have, ok := c.keys.find(func(l *liveKey) bool { return l.key.Hash == k.Hash }); ok {
		return have.snapshot(), nil
	}
	if err := c.store.AddKey(ctx, k); err != nil {
		return Key{}, fmt.Errorf("store key: %w", err)
	}
	c.keys.mu.Lock()
	defer c.keys.mu.Unlock()
	c.keys.byHash[k.Hash] = newLiveKey(k)
	return k, nil
}

func checkKey(name, text string) error {
	switch {
	case name == "":
		return errs.New(errs.Invalid, "name is missing: give the key a name that says who uses it")
	case utf8.RuneCountInString(name) > maxKeyName:
		return errs.New(errs.Invalid, "name is longer than %d characters", maxKeyName)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return errs.New(errs.Invalid, "name must be text without control characters")
	case !keyPattern.MatchString(text):
		return errs.New(errs.Invalid, "an API key is %q and 40 hexadecimal digits in lower case", keyPrefix)
	}
	return nil
}

func (c *Control) describeKey(name, text string) Key {
	value := strings.TrimPrefix(text, keyPrefix)
	return Key{
		ID: newUUID(), Name: name, Hash: sha256.Sum256([]byte(text)),
		Prefix: keyPrefix, Length: len(value), MaskPrefix: value[:2], MaskSuffix: value[len(value)-4:],
		CreatedAt: c.opt.Now().UTC(),
	}
}

// newUUID returns a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand aborts the program instead
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (r *keyring) find(match func(*liveKey) bool) (*liveKey, bool) {
	all := r.all()
	i := slices.IndexFunc(all, match)
	if i < 0 {
		return nil, false
	}
	return all[i], true
}

// Keys returns all API keys, oldest first.
func (c *Control) Keys() []Key {
	all := c.keys.all()
	keys := make([]Key, 0, len(all))
	for _, l := range all {
		keys = append(keys, l.snapshot())
	}
	slices.SortFunc(keys, func(a, b Key) int {
		if d := a.CreatedAt.Compare(b.CreatedAt); d != 0 {
			return d
		}
		return strings.Compare(a.ID, b.ID)
	})
	return keys
}

// RevokeKey makes an API key useless, at once and for good. The last key stays
// (errs.Conflict), since without one nobody could make another.
func (c *Control) RevokeKey(ctx context.Context, id string) error {
	leave, err := c.enter()
	if err != nil {
		return err
	}
	defer leave()
	c.keys.change.Lock()
	defer c.keys.change.Unlock()
	l, ok := c.keys.find(func(l *liveKey) bool { return l.key.ID == id })
	if !ok {
		return errs.New(errs.NotFound, "API key %q not found: \"sandlot key list\" shows the IDs", id)
	}
	if len(c.keys.all()) == 1 {
		return errs.New(errs.Conflict, "this is the last API key: create another one before you revoke it")
	}
	if err := c.store.DeleteKey(ctx, id); err != nil {
		return fmt.Errorf("delete key: %w", err)
	}
	c.keys.mu.Lock()
	defer c.keys.mu.Unlock()
	delete(c.keys.byHash, l.key.Hash)
	return nil
}
