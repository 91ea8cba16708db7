package control

import (
	"slices"
	"strings"

	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// PortOptions say how servers inside a sandbox are reached from outside.
type PortOptions struct {
	// Private asks for a token on every request to a port; Create makes it.
	Private bool
	// MaskHost, if set, is the Host header servers see; sandbox.PortPlaceholder in
	// it stands for the port.
	MaskHost string
	// HTTPS are the ports whose servers speak TLS.
	HTTPS []int
}

// Bounds on what the registry has to keep.
const (
	maxMaskHost   = 512
	maxHTTPSPorts = 256
)

func (o PortOptions) check() error {
	if len(o.MaskHost) > maxMaskHost {
		return errs.New(errs.Invalid, "network.maskRequestHost is longer than %d bytes", maxMaskHost)
	}
	if rest := strings.ReplaceAll(o.MaskHost, sandbox.PortPlaceholder, ""); strings.ContainsFunc(rest, notInHost) {
		return errs.New(errs.Invalid, "network.maskRequestHost is %q, which is no host: write a name or an address and perhaps a port, like %q", o.MaskHost, "localhost:"+sandbox.PortPlaceholder)
	}
	if len(o.HTTPS) > maxHTTPSPorts {
		return errs.New(errs.Invalid, "network.httpsPorts holds %d ports; %d are allowed", len(o.HTTPS), maxHTTPSPorts)
	}
	for _, port := range o.HTTPS {
		if port < 1 || port > 65535 {
			return errs.New(errs.Invalid, "network.httpsPorts: %d is no port; give numbers from 1 to 65535", port)
		}
		if port == sandbox.AgentPort {
			return errs.New(errs.Invalid, "network.httpsPorts: %d is the port of the sandbox's own interface, which speaks no TLS", port)
		}
	}
	return nil
}

// notInHost reports whether a character can be no part of a name, an IPv4 or
// bracketed IPv6 address, or a port.
func notInHost(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return false
	}
	return !strings.ContainsRune(".-_:[]", r)
}

// https returns the checked ports, sorted, each once; nil if there are none.
func (o PortOptions) https() []uint16 {
	var all []uint16
	for _, port := range o.HTTPS {
		all = append(all, uint16(port))
	}
	slices.Sort(all)
	return slices.Compact(all)
}
