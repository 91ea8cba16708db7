package driver

import "errors"

// ErrGone says that a sandbox's first process no longer exists.
var ErrGone = errors.New("sandbox is gone")
