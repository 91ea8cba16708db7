// Package client is the Go SDK of Sandlot: it starts sandboxes, runs commands
// in them and moves files in and out. It speaks the wire format of the official
// E2B SDKs, and it is the only package of this module meant to be imported from
// outside. It imports the generated wire types, connect-go and the standard
// library.
//
// # Finding the server
//
// New takes what Options says, then the variables E2B_API_URL,
// E2B_SANDBOX_URL and E2B_API_KEY, then what a server on this machine left in
// its data directory. On the machine of the server no setting is needed, if the
// data directory's key may be read.
//
// # Errors
//
// What the server refuses is an *Error; errors.Is tells its class (ErrNotFound,
// ErrExhausted, …). A server that does not answer is an *UnreachableError, and
// a command that ends with a code other than zero is an *ExitError. When a
// context ends, errors.Is finds context.Canceled or context.DeadlineExceeded.
//
// # Concurrency
//
// Client, Sandbox and everything reached through them are safe for concurrent
// use. Calls block until the server has answered or their context ends.
// Connections are kept and used again; one Client per program is enough.
package client
