package account

import (
	"slices"
	"strconv"
	"strings"
)

// group is one line of /etc/group.
type group struct {
	name    string
	gid     uint32
	members []string
}

// parsePasswd returns the accounts in the text of a passwd file. Lines that are
// not whole entries are left out, as libc does.
func parsePasswd(text string) []User {
	var users []User
	for line := range strings.Lines(text) {
		f, ok := fields(line, 7)
		if !ok {
			continue
		}
		uid, uidOK := id(f[2])
		gid, gidOK := id(f[3])
		if !uidOK || !gidOK {
			continue
		}
		users = append(users, User{
			Name: f[0], UID: uid, GID: gid,
			Home: orDefault(f[5], "/"), Shell: orDefault(f[6], "/bin/sh"),
		})
	}
	return users
}

// parseGroup returns the groups in the text of a group file.
func parseGroup(text string) []group {
	var groups []group
	for line := range strings.Lines(text) {
		f, ok := fields(line, 4)
		if !ok {
			continue
		}
		gid, ok := id(f[2])
		if !ok {
			continue
		}
		g := group{name: f[0], gid: gid}
		if f[3] != "" {
			g.members = strings.Split(f[3], ",")
		}
		groups = append(groups, g)
	}
	return groups
}

// fields splits an entry; ok is false for comments, NIS lines and short ones.
func fields(line string, n int) (f []string, ok bool) {
	line = strings.TrimRight(line, "\r\n")
	if line == "" || strings.ContainsAny(line[:1], "#+-:") || strings.IndexByte(line, 0) >= 0 {
		return nil, false
	}
	f = strings.Split(line, ":")
	return f, len(f) >= n
}

// id parses a user or group id. The highest number means "no id" to the kernel.
func id(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && uint32(n) != ^uint32(0)
}

// maxGroups is the kernel's limit (NGROUPS_MAX).
const maxGroups = 65536

// supplementary returns the groups u is a member of beside its own.
func supplementary(groups []group, u User) []uint32 {
	var ids []uint32
	for _, g := range groups {
		if g.gid != u.GID && len(ids) < maxGroups && slices.Contains(g.members, u.Name) && !slices.Contains(ids, g.gid) {
			ids = append(ids, g.gid)
		}
	}
	return ids
}

func orDefault(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}
