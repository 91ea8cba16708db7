package reaper

import (
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseStat(t *testing.T) {
	for line, want := range map[string]struct {
		stat stat
		ok   bool
	}{
		"7 (sh) S 1 7 6 34816 7":            {stat{'S', 7, 6}, true},
		"7 (a) Z 1 2 3) (b) R 1 9 8 0":      {stat{'R', 9, 8}, true}, // a name that looks like the rest
		"7 (two\nlines ) S 1 5 6 0 0 0\n":   {stat{'S', 5, 6}, true},
		"7 (sh":                             {},
		"7 (sh)":                            {},
		"7 (sh) S 1":                        {},
		"7 (sh) running 1 2 3":              {stat{}, false},
		"7 (sh) S 1 x 3":                    {stat{'S', 0, 3}, false},
		"7 (sh) S 1 2 99999999999999999999": {stat{'S', 2, 9223372036854775807}, false},
	} {
		got, ok := parseStat([]byte(line))
		if got != want.stat || ok != want.ok {
			t.Errorf("%q: %+v, %v; want %+v, %v", line, got, ok, want.stat, want.ok)
		}
	}
}

// TestReadStat compares with what the kernel says by other means.
func TestReadStat(t *testing.T) {
	var buf [512]byte
	got, ok := readStat(os.Getpid(), buf[:])
	session, err := unix.Getsid(0)
	if err != nil {
		t.Fatal(err)
	}
	if !ok || got.group != unix.Getpgrp() || got.session != session {
		t.Errorf("%+v, %v; want group %d, session %d", got, ok, unix.Getpgrp(), session)
	}
	if _, ok := readStat(0, buf[:]); ok {
		t.Error("there is a process 0")
	}
}

// FuzzParseStat has any name in brackets change nothing of what follows it.
func FuzzParseStat(f *testing.F) {
	f.Add("sh", 7, 6)
	f.Add(") S 1 2 3 (", 1, 1)
	f.Add("\x00\xff\n)", -1, 0)
	f.Fuzz(func(t *testing.T, name string, group, session int) {
		line := "1 (" + name + ") S 1 " + strconv.Itoa(group) + " " + strconv.Itoa(session) + " 0 -1"
		got, ok := parseStat([]byte(line))
		if !ok || got != (stat{'S', group, session}) {
			t.Errorf("%q: %+v, %v", line, got, ok)
		}
		_, _ = parseStat([]byte(name)) // must not panic
	})
}
