// Package drivertest is the suite every isolation driver passes, and what
// tests of real drivers are made from: the agent as a layer, and a small root
// file system. Only tests import it.
package drivertest
