package sandbox

// Signal is a signal's number on Linux (signal(7)).
type Signal int

// The signals the control plane sends.
const (
	SIGKILL Signal = 9
	SIGTERM Signal = 15
)
