// Package account knows the users and groups of a sandbox: it reads /etc/passwd
// and /etc/group itself, because the agent is a static binary, and chooses the
// user a request acts as. Only the agent's own packages import it.
package account

import (
	"encoding/base64"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// maxFileBytes bounds how much of an account file is read: anybody who is root
// in the sandbox may write it.
const maxFileBytes = 4 << 20

// User is one account.
type User struct {
	Name     string
	UID, GID uint32
	// Groups are the supplementary groups, without GID.
	Groups []uint32
	// Home and Shell are never empty.
	Home, Shell string
}

// DB reads the account files and keeps what it read until they change. It is
// safe for concurrent use.
type DB struct {
	passwdFile, groupFile string

	mu     sync.Mutex
	passwd table[User]
	group  table[group]
}

// table is a parsed account file and the state of the file it was read from.
type table[T any] struct {
	stamp stamp
	rows  []T
}

// stamp tells versions of a file apart.
type stamp struct {
	ino          uint64
	size         int64
	mtime, ctime syscall.Timespec
}

// New returns a DB over the two files, normally /etc/passwd and /etc/group. A
// missing file counts as empty.
func New(passwdFile, groupFile string) *DB {
	return &DB{passwdFile: passwdFile, groupFile: groupFile}
}

// Lookup returns the account called name. A name of digits that no account has
// is taken as a user id. The error of an unknown user has kind Unauthenticated.
func (d *DB) Lookup(name string) (User, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refresh()
	if u, ok := d.find(func(u *User) bool { return u.Name == name }); ok {
		return u, nil
	}
	if uid, err := strconv.ParseUint(name, 10, 32); err == nil {
		if u, ok := d.find(func(u *User) bool { return u.UID == uint32(uid) }); ok {
			return u, nil
		}
	}
	return User{}, errs.New(errs.Unauthenticated, "the sandbox has no user %q", name)
}

// ByID returns the account with a user id, if there is one.
func (d *DB) ByID(uid uint32) (User, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refresh()
	return d.find(func(u *User) bool { return u.UID == uid })
}

// find returns the first account match accepts, with its groups.
func (d *DB) find(match func(*User) bool) (User, bool) {
	for i := range d.passwd.rows {
		if match(&d.passwd.rows[i]) {
			u := d.passwd.rows[i]
			u.Groups = supplementary(d.group.rows, u)
			return u, true
		}
	}
	return User{}, false
}

// Names returns functions that turn ids into names (the number itself where no
// account has it). They work on the files as they are now, and are for use by
// one goroutine.
func (d *DB) Names() (user, group func(uint32) string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refresh()
	users, groups := d.passwd.rows, d.group.rows
	user = cached(func(id uint32) string {
		for i := range users {
			if users[i].UID == id {
				return users[i].Name
			}
		}
		return strconv.FormatUint(uint64(id), 10)
	})
	group = cached(func(id uint32) string {
		for i := range groups {
			if groups[i].gid == id {
				return groups[i].name
			}
		}
		return strconv.FormatUint(uint64(id), 10)
	})
	return user, group
}

// cached remembers the last answer: entries of one directory mostly have one owner.
func cached(f func(uint32) string) func(uint32) string {
	var lastID uint32
	var lastName string
	return func(id uint32) string {
		if lastName == "" || id != lastID {
			lastID, lastName = id, f(id)
		}
		return lastName
	}
}

// refresh reads the files again if they changed. The caller holds mu.
func (d *DB) refresh() {
	d.passwd.refresh(d.passwdFile, parsePasswd)
	d.group.refresh(d.groupFile, parseGroup)
}

func (t *table[T]) refresh(path string, parse func(string) []T) {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		*t = table[T]{}
		return
	}
	now := stamp{ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}
	if now == t.stamp {
		return
	}
	text, err := readFile(path)
	if err != nil {
		*t = table[T]{}
		return
	}
	*t = table[T]{stamp: now, rows: parse(text)}
}

func readFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var b strings.Builder
	_, err = io.Copy(&b, io.LimitReader(f, maxFileBytes))
	return b.String(), err
}

// FromAuthorization returns the user name in an Authorization header of the form
// Basic base64("name:"), which is how the SDKs say whom to act as; "" if the
// header names nobody. The password is ignored: the host has checked the caller.
func FromAuthorization(header string) (string, error) {
	if header == "" {
		return "", nil
	}
	scheme, rest, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Basic") {
		// Bearer tokens are the host's affair; they name no user.
		return "", nil
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(rest))
	if err != nil {
		return "", errs.New(errs.Unauthenticated, "the Authorization header is not valid base64; send Basic base64(\"<user>:\")")
	}
	name, _, _ := strings.Cut(string(raw), ":")
	return name, nil
}

// Expand makes path absolute and clean as the user sees it: ~ is the home
// directory, and relative paths start there.
func Expand(path string, u User) string {
	switch {
	case path == "~" || strings.HasPrefix(path, "~/"):
		return filepath.Join(u.Home, path[1:])
	case filepath.IsAbs(path):
		return filepath.Clean(path)
	default:
		return filepath.Join(u.Home, path)
	}
}
