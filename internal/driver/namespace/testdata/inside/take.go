package main

import (
	"errors"
	"fmt"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// few is how many of a thing an ordinary program holds at once.
const few = 16

// several takes a few of what the kernel counts, as ordinary programs do.
func several(take func() error) error {
	for range few {
		if err := take(); err != nil {
			return err
		}
	}
	return nil
}

// keep takes a few, says how that went, and holds them until it is killed.
func keep(name string, take func() error) error {
	fmt.Println(name, outcome(several(take)))
	time.Sleep(time.Hour)
	return nil
}

// takeAll takes as many as the kernel gives, says how many that were and what
// the refusal was, and holds them until it is killed.
func takeAll(name string, take func() error) error {
	count, err := 0, error(nil)
	for ; err == nil && count < 1<<18; count++ {
		err = take()
	}
	fmt.Println(name, count-1, outcome(err))
	if err == nil {
		return errors.New("no limit")
	}
	time.Sleep(time.Hour)
	return nil
}

func inotify() error {
	_, err := unix.InotifyInit1(0)
	return err
}

func terminal() error {
	_, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0)
	return err
}

// timer makes a timer that is to send a signal, for which the kernel reserves
// one of the user's pending signals.
func timer() error {
	var id int32
	_, _, no := syscall.RawSyscall(syscall.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, 0, uintptr(unsafe.Pointer(&id)))
	if no != 0 {
		return no
	}
	return nil
}
