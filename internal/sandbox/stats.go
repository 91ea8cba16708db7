package sandbox

import "time"

// Stats is what a sandbox uses at one moment.
type Stats struct {
	// CPUTime is the processor time used since it was launched.
	CPUTime time.Duration
	// MemoryBytes is the memory charged, CacheBytes the part of it that caches
	// files and is taken back when something else needs it.
	MemoryBytes, CacheBytes int64
	// DiskBytes is what it has written and not deleted; 0 where the host does not
	// count that.
	DiskBytes int64
}
