// Package arch is the project's structure as tests: which package may import
// which and why, where third-party modules may be used, how long a file or a
// function may grow, and what no file may contain. It has no code of its own,
// and nothing imports it.
package arch
