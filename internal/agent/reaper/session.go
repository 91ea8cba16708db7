package reaper

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// killPasses bounds how often a session is looked through for processes that
// were forked meanwhile.
const killPasses = 8

// signalSession signals every process of a session outside the process group of
// the same number. Best effort: they may end, or leave, at any moment. With
// SIGKILL it looks again until nothing is left, as a fork may win the race once.
func signalSession(session int, sig syscall.Signal) {
	for range killPasses {
		if signalMembers(session, sig) == 0 || sig != syscall.SIGKILL {
			return
		}
	}
}

// signalMembers signals the processes /proc shows now, and returns how many.
func signalMembers(session int, sig syscall.Signal) (signalled int) {
	proc, err := os.Open("/proc")
	if err != nil {
		return 0
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1) // what was read before an error counts
	var buf [512]byte
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err == nil && signalMember(pid, session, sig, buf[:]) {
			signalled++
		}
	}
	return signalled
}

// signalMember signals a process if it belongs to the session and not to the
// group of the same number. The descriptor is opened before the process is
// looked at, so that no later process of the same number is hit.
func signalMember(pid, session int, sig syscall.Signal, buf []byte) bool {
	stat, ok := readStat(pid, buf)
	if !ok || !stat.member(session) {
		return false
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if stat, ok = readStat(pid, buf); !ok || !stat.member(session) {
		return false
	}
	return unix.PidfdSendSignal(fd, sig, nil, 0) == nil
}

// stat is what matters of /proc/<pid>/stat.
type stat struct {
	state          byte
	group, session int
}

// member reports whether the process lives, in the session but not in the group
// its leader leads.
func (s stat) member(session int) bool {
	return s.session == session && s.group != session && s.state != 'Z' && s.state != 'X'
}

func readStat(pid int, buf []byte) (stat, bool) {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return stat{}, false
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, buf)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(fd, buf)
	}
	if err != nil {
		return stat{}, false
	}
	return parseStat(buf[:n])
}

// parseStat reads "pid (name) state parent group session …". The name is the
// process's own choice, and may look like the rest.
func parseStat(line []byte) (stat, bool) {
	end := bytes.LastIndexByte(line, ')')
	if end < 0 {
		return stat{}, false
	}
	fields := bytes.Fields(line[end+1:])
	if len(fields) < 4 || len(fields[0]) != 1 {
		return stat{}, false
	}
	group, groupErr := strconv.Atoi(string(fields[2]))
	session, sessionErr := strconv.Atoi(string(fields[3]))
	return stat{state: fields[0][0], group: group, session: session}, groupErr == nil && sessionErr == nil
}
