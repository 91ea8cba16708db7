package trust

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
)

// User is somebody with browsers.
type User struct {
	Name     string
	Home     string
	UID, GID uint32
}

// Invoker returns who ran this program: with sudo, the user who called it.
func Invoker(getenv func(string) string) (User, error) {
	u, err := user.Current()
	if name := getenv("SUDO_USER"); err == nil && u.Uid == "0" && name != "" {
		u, err = user.Lookup(name)
	}
	if err != nil {
		return User{}, fmt.Errorf("find the invoking user: %w", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	return User{Name: u.Username, Home: u.HomeDir, UID: uint32(uid), GID: uint32(gid)}, errors.Join(err1, err2)
}

// chromium is the database of Chromium and those made from it. It may be made
// before they are started for the first time.
const chromium = ".pki/nssdb"

// databases are where else NSS databases lie in a home directory: Firefox's,
// one for each profile, and those of packages that have a home of their own.
var databases = [...]string{
	"snap/*/current/.pki/nssdb",
	".mozilla/firefox/*",
	"snap/firefox/common/.mozilla/firefox/*",
	".var/app/*/.mozilla/firefox/*",
	".var/app/*/.pki/nssdb",
}

// maxCopies bounds how often one name is removed from a database: each new root
// of a CA may have added a certificate of that name.
const maxCopies = 16

// browsers calls do for every database of the user's.
func (h Host) browsers(ctx context.Context, cert *x509.Certificate, r *Result, do func(context.Context, nss, *x509.Certificate) (bool, error)) error {
	if h.User.Home == "" {
		return nil
	}
	certutil, err := h.lookPath("certutil")
	if err != nil {
		r.Left = append(r.Left, "browsers of "+h.User.Name+": install certutil (package libnss3-tools, nss-tools or mozilla-nss-tools) and run this again")
		return nil
	}
	var all error
	for _, dir := range h.databases() {
		changed, err := do(ctx, nss{certutil, dir}, cert)
		if err != nil {
			all = errors.Join(all, fmt.Errorf("browser database %s: %w", dir, err))
		} else if changed {
			r.Done = append(r.Done, "the browsers' database "+dir)
		}
	}
	return all
}

// databases returns the directories of the user's databases that exist, and
// Chromium's.
func (h Host) databases() []string {
	home := h.path(h.User.Home)
	found := []string{filepath.Join(home, chromium)}
	for _, pattern := range databases {
		dirs, _ := filepath.Glob(filepath.Join(home, pattern)) // the patterns are well-formed
		for _, dir := range dirs {
			if _, err := os.Stat(filepath.Join(dir, "cert9.db")); err == nil && !slices.Contains(found, dir) {
				found = append(found, dir)
			}
		}
	}
	return found
}

// nss is one database and the program that changes it.
type nss struct{ certutil, dir string }

func (h Host) addTo(ctx context.Context, db nss, cert *x509.Certificate) (bool, error) {
	if !db.exists() {
		if err := h.makeDatabase(ctx, db); err != nil {
			return false, err
		}
	}
	if _, err := h.removeFrom(ctx, db, cert); err != nil {
		return false, err
	}
	return true, h.nss(ctx, db, encode(cert), "-A", "-t", "C,,", "-n", cert.Subject.CommonName)
}

func (h Host) removeFrom(ctx context.Context, db nss, cert *x509.Certificate) (bool, error) {
	if !db.exists() {
		return false, nil
	}
	for n := range maxCopies {
		if h.nss(ctx, db, nil, "-L", "-n", cert.Subject.CommonName) != nil {
			return n > 0, nil // it is not in there (any more)
		}
		if err := h.nss(ctx, db, nil, "-D", "-n", cert.Subject.CommonName); err != nil {
			return n > 0, err
		}
	}
	return true, nil
}

func (db nss) exists() bool {
	_, err := os.Stat(filepath.Join(db.dir, "cert9.db"))
	return err == nil
}

// makeDatabase makes Chromium's, as its user: what root made in somebody's home
// he could not change, and links he put there must not lead root elsewhere.
func (h Host) makeDatabase(ctx context.Context, db nss) error {
	mkdir, err := h.lookPath("mkdir")
	if err != nil {
		return err
	}
	if err := h.as(ctx, mkdir, nil, "-p", "-m", "700", db.dir); err != nil {
		return err
	}
	return h.nss(ctx, db, nil, "-N", "--empty-password")
}

func (h Host) nss(ctx context.Context, db nss, stdin []byte, args ...string) error {
	return h.as(ctx, db.certutil, stdin, append([]string{"-d", "sql:" + db.dir}, args...)...)
}

// as runs a program as the user.
func (h Host) as(ctx context.Context, program string, stdin []byte, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Dir = "/"
	cmd.Env = []string{"HOME=" + h.User.Home, "PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	if os.Geteuid() == 0 && h.User.UID != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: h.User.UID, Gid: h.User.GID}}
	}
	return h.do(cmd)
}
