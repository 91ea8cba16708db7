package netns

import (
	"os"
	"strconv"
	"strings"

	"github.com/sandlot-dev/sandlot/internal/atomicfile"
)

// The kernel remembers for each flow where its packets are led. A sandbox that
// keeps one UDP socket for its queries would go on asking the old port, so the
// port outlives the server.

// storedPort returns the port an earlier server had, 0 if that is not known.
func storedPort(file string) uint16 {
	if file == "" {
		return 0
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	port, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 16)
	if err != nil {
		return 0
	}
	return uint16(port)
}

// storePort keeps a port for the next start, unless it is kept already.
func storePort(file string, port uint16) error {
	if file == "" || storedPort(file) == port {
		return nil
	}
	return atomicfile.Write(file, []byte(strconv.Itoa(int(port))+"\n"), 0o600)
}
