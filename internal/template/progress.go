package template

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"time"
)

// Progress says how far a build is.
type Progress struct {
	// Stage is what happens now, in words, e.g. "downloading packages".
	Stage string
	// Percent is an estimate from 0 to 100 that never falls.
	Percent float64
	// Detail is a few words more, often empty.
	Detail  string
	Elapsed time.Duration
	// Done marks the last report of a build that succeeded.
	Done bool
}

// stage is a part of a build: what mmdebstrap says when it begins, and from
// where it moves the percentage, in about how many seconds.
type stage struct {
	begins  string
	text    string
	percent float64
	seconds float64
}

// stages of a build with the seconds a build on two cores takes in each.
var stages = []stage{
	{"", "starting", 0, 1},
	{"running apt-get update", "fetching package lists", 3, 3},
	{"downloading packages", "downloading packages", 10, 3},
	{"extracting archives", "unpacking the base system", 20, 3},
	{"installing essential packages", "setting up the base system", 28, 5},
	{"installing remaining packages", "installing packages", 42, 10},
	{"running --customize-hook", "adding npm and the user", 80, 4},
	{"cleaning package lists", "cleaning up", 88, 1},
	{"creating tarball", "writing the image", 90, 2},
}

// between two reports
const interval = 250 * time.Millisecond

// meter turns the steps and the output of a build into reports.
type meter struct {
	report  func(Progress)
	start   time.Time
	quit    chan struct{}
	stopped chan struct{}

	mu    sync.Mutex
	now   stage
	next  float64 // percentage where the next stage begins
	since time.Time
	bytes int64
	end   *Progress
}

func startMeter(report func(Progress)) *meter {
	if report == nil {
		report = func(Progress) {}
	}
	m := &meter{
		report: report, start: time.Now(), since: time.Now(),
		now: stages[0], next: stages[1].percent,
		quit: make(chan struct{}), stopped: make(chan struct{}),
	}
	go m.run()
	return m
}

func (m *meter) run() {
	defer close(m.stopped)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if p := m.progress(); !p.Done {
			m.report(p)
		}
		select {
		case <-tick.C:
		case <-m.quit:
			if p := m.progress(); p.Done {
				m.report(p)
			}
			return
		}
	}
}

// stop ends the reports and waits for the last.
func (m *meter) stop() {
	close(m.quit)
	<-m.stopped
}

// step notes a step in mmdebstrap's words.
func (m *meter) step(text string) {
	for i, s := range stages {
		if i == 0 || !strings.HasPrefix(text, s.begins) {
			continue
		}
		m.mu.Lock()
		if s.percent >= m.now.percent {
			m.now, m.since, m.next = s, time.Now(), 99
			if i+1 < len(stages) {
				m.next = stages[i+1].percent
			}
		}
		m.mu.Unlock()
	}
}

// enter notes a stage that is not mmdebstrap's.
func (m *meter) enter(text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now.text = text
}

// Write counts the bytes of the file system as they pass.
func (m *meter) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bytes += int64(len(p))
	return len(p), nil
}

// done notes that the build succeeded.
func (m *meter) done(detail string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.end = &Progress{Stage: "ready", Percent: 100, Detail: detail, Done: true, Elapsed: time.Since(m.start)}
}

// progress estimates where the build is: within a stage the percentage nears
// that of the next one ever more slowly.
func (m *meter) progress() Progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.end != nil {
		return *m.end
	}
	part := 1 - math.Exp(-time.Since(m.since).Seconds()/m.now.seconds)
	p := Progress{
		Stage:   m.now.text,
		Percent: m.now.percent + part*(m.next-m.now.percent),
		Elapsed: time.Since(m.start),
	}
	if m.bytes > 0 {
		p.Detail = fmt.Sprintf("%d MB", m.bytes/1_000_000)
	}
	return p
}
