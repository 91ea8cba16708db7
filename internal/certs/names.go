package certs

import (
	"net/netip"
	"strings"
)

// local is the top-level domain that always means this machine (RFC 6761,
// section 6.3).
const local = "localhost"

// Names are the names a server is reached by.
type Names struct {
	// Domain is where host names of sandboxes live, in lower case and without a
	// port; empty means below localhost only.
	Domain string
	// Addr is the address listened on, if it is one and not all of the host's.
	Addr netip.Addr
}

// Serve reports whether a host name is one of the server's: localhost, the
// domain, and every name below them.
func (n Names) Serve(host string) bool {
	return below(clean(host), local) || n.Under(host)
}

// Under reports whether a host name is the domain or below it.
func (n Names) Under(host string) bool {
	return n.Domain != "" && below(clean(host), n.Domain)
}

// reach reports whether the server is reached at an address.
func (n Names) reach(a netip.Addr) bool {
	return a.IsLoopback() || a.IsValid() && a == n.Addr
}

// below reports whether host is domain or ends in it, label by label.
func below(host, domain string) bool {
	rest, ok := strings.CutSuffix(host, domain)
	return ok && (rest == "" || strings.HasSuffix(rest, "."))
}

// clean brings the name a client asked for into the form of Names. What is no
// host name becomes empty.
func clean(host string) string {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if len(host) > 253 {
		return ""
	}
	for label := range strings.SplitSeq(host, ".") {
		if !validLabel(label) {
			return ""
		}
	}
	return host
}

func validLabel(label string) bool {
	if label == "" || len(label) > 63 {
		return false
	}
	return strings.IndexFunc(label, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
	}) < 0
}
