// Package debian builds Debian file systems on any host that has mmdebstrap. It
// owns what the host's package manager is configured with (mirrors, options)
// as far as a build needs it, and the running of mmdebstrap itself: its flags,
// its progress, its end when it is interrupted, and what it leaves behind.
//
// Package debian is mechanism (L1): template uses it, and it imports only errs.
package debian

import (
	"bufio"
	"slices"
	"strings"
)

// Source is one package source of a host: a stanza of a .sources file or a
// line of a .list file.
type Source struct {
	URIs       []string
	Suites     []string
	Components []string
	// SignedBy is the path of a keyring, an embedded key, or empty for the
	// host's default keys.
	SignedBy string
}

// Has reports whether the source holds a component of a suite.
func (s Source) Has(suite, component string) bool {
	return slices.Contains(s.Suites, suite) && slices.Contains(s.Components, component)
}

// ParseSources reads the deb822 format of *.sources files (sources.list(5)).
// Stanzas that are disabled, that hold source packages only or that make no
// sense are left out: apt itself would not use them or says what is wrong.
func ParseSources(text string) []Source {
	var all []Source
	for _, fields := range stanzas(text) {
		if !slices.Contains(strings.Fields(fields["types"]), "deb") || isNo(fields["enabled"]) {
			continue
		}
		s := Source{
			URIs:       strings.Fields(fields["uris"]),
			Suites:     strings.Fields(fields["suites"]),
			Components: strings.Fields(fields["components"]),
			SignedBy:   strings.TrimSpace(fields["signed-by"]),
		}
		if len(s.URIs) > 0 && len(s.Suites) > 0 {
			all = append(all, s)
		}
	}
	return all
}

// stanzas splits deb822 text into stanzas of fields with lower-case names.
func stanzas(text string) []map[string]string {
	var all []map[string]string
	current, last := map[string]string{}, ""
	flush := func() {
		if len(current) > 0 {
			all = append(all, current)
		}
		current, last = map[string]string{}, ""
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.TrimSpace(line) == "":
			flush()
		case strings.HasPrefix(line, "#"):
		case line[0] == ' ' || line[0] == '\t':
			if last != "" {
				current[last] += "\n" + strings.TrimSpace(line)
			}
		default:
			name, value, ok := strings.Cut(line, ":")
			if !ok {
				continue
			}
			last = strings.ToLower(strings.TrimSpace(name))
			current[last] = strings.TrimSpace(value)
		}
	}
	flush()
	return all
}

func isNo(value string) bool {
	switch strings.ToLower(strings.TrimSpace(value)) {
	case "no", "false", "without", "off", "disable", "0":
		return true
	}
	return false
}

// ParseList reads the one-line format of *.list files (sources.list(5)).
func ParseList(text string) []Source {
	var all []Source
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if s, ok := parseLine(lines.Text()); ok {
			all = append(all, s)
		}
	}
	return all
}

// parseLine reads `deb [option=value …] uri suite component…`.
func parseLine(line string) (Source, bool) {
	line, _, _ = strings.Cut(line, "#")
	rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb")
	if !ok || rest == "" || !strings.ContainsAny(rest[:1], " \t[") {
		return Source{}, false
	}
	var s Source
	if rest = strings.TrimSpace(rest); strings.HasPrefix(rest, "[") {
		options, after, closed := strings.Cut(rest[1:], "]")
		if !closed {
			return Source{}, false
		}
		for option := range strings.FieldsSeq(options) {
			if name, value, _ := strings.Cut(option, "="); strings.EqualFold(name, "signed-by") {
				s.SignedBy = value
			}
		}
		rest = after
	}
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return Source{}, false
	}
	s.URIs, s.Suites, s.Components = fields[:1], fields[1:2], fields[2:]
	return s, true
}
