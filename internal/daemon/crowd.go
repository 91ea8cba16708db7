package daemon

import (
	"math"
	"net"
	"net/http"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Half of the process's descriptors are for clients and half of those for what
// leads on into sandboxes, so that however many come, the server can go on
// starting and ending sandboxes. Clients that have not said anything, and
// connections to agents that nobody uses now, count by themselves: together they
// leave an eighth.
const (
	clientShare     = 2
	connectionShare = 8  // for ports and for agents, each with a descriptor at both ends
	silentShare     = 16 // and edge keeps as many idle connections to agents
)

// descriptorsOver returns the process's limit on open files divided by share.
func descriptorsOver(share uint64) int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return math.MaxInt32 // it never fails with these arguments
	}
	return int(min(limit.Cur/share, math.MaxInt32))
}

// crowd counts the connections of clients and cuts those beyond most. It is safe
// for concurrent use.
type crowd struct {
	most int64
	open atomic.Int64
}

// watch is an http.Server's ConnState. Hijacked connections are the edge's to
// count.
func (c *crowd) watch(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if c.open.Add(1) > c.most {
			_ = conn.Close() // the server meets an error and reports StateClosed
		}
	case http.StateHijacked, http.StateClosed:
		c.open.Add(-1)
	case http.StateActive, http.StateIdle:
	}
}
