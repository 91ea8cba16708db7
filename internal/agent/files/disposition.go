package files

import (
	"net/url"
	"strings"
)

// disposition returns the field and file name of a form part. The standard
// library's own reading is of no use here: its FileName drops directories, which
// carry the meaning, and it takes backslashes away that clients do not add.
//
// Clients write names in two ways. Browsers and Node.js write a quote and line
// breaks as %22, %0A and %0D and everything else as it is, also backslashes
// (WHATWG HTML, multipart form data). Python's httpx writes control characters
// and the quote in the same way and doubles backslashes; others put a backslash
// before a quote (RFC 2616). So %XX means a character only where one of these
// would write it: a%20b is a name with a percent sign.
func disposition(header string) (field, filename string) {
	kind, rest, _ := strings.Cut(header, ";")
	if !strings.EqualFold(strings.TrimSpace(kind), "form-data") {
		return "", ""
	}
	extended := ""
	seen := map[string]bool{}
	for rest = strings.TrimLeft(rest, " \t;"); rest != ""; rest = strings.TrimLeft(rest, " \t;") {
		var name, value string
		name, value, rest = parameter(rest)
		if seen[name] {
			return "", "" // which of the two is meant?
		}
		seen[name] = true
		switch name {
		case "name":
			field = value
		case "filename":
			filename = value
		case "filename*":
			extended = extendedValue(value)
		}
	}
	if extended != "" {
		filename = extended
	}
	return field, filename
}

// parameter cuts the first name=value from s.
func parameter(s string) (name, value, rest string) {
	end := strings.IndexAny(s, "=;")
	if end < 0 || s[end] == ';' {
		name, rest, _ = strings.Cut(s, ";")
		return strings.ToLower(strings.TrimSpace(name)), "", rest
	}
	name = strings.ToLower(strings.TrimSpace(s[:end]))
	if s = strings.TrimLeft(s[end+1:], " \t"); strings.HasPrefix(s, `"`) {
		value, rest = quoted(s[1:])
		return name, unescape(value), rest
	}
	value, rest, _ = strings.Cut(s, ";")
	return name, strings.TrimSpace(value), rest
}

// quoted reads up to the closing quote.
func quoted(s string) (value, rest string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:]
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '\\':
			i++
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '"' && !closes(s[i+2:]):
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), "" // never closed: what there is
}

// closes reports whether a quote before rest is the closing one: the next
// parameter or nothing follows. A backslash before it then is the name's last
// character as Node.js writes it.
func closes(rest string) bool {
	rest = strings.TrimLeft(rest, " \t")
	return rest == "" || strings.HasPrefix(rest, "; filename") || strings.HasPrefix(rest, "; name")
}

// unescape undoes the %XX that clients write for quotes and control characters.
func unescape(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c, ok := escaped(s[i:]); ok {
			b.WriteByte(c)
			i += 2
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// escaped returns the quote or control character that %XX at the start of s
// stands for.
func escaped(s string) (byte, bool) {
	if len(s) < 3 || s[0] != '%' {
		return 0, false
	}
	text, err := url.PathUnescape(s[:3])
	if err != nil || text[0] != '"' && text[0] >= ' ' {
		return 0, false
	}
	return text[0], true
}

// extendedValue decodes UTF-8”percent-encoded (RFC 5987); "" if it is not that.
func extendedValue(s string) string {
	charset, rest, ok := strings.Cut(s, "'")
	_, encoded, ok2 := strings.Cut(rest, "'")
	if !ok || !ok2 || !strings.EqualFold(charset, "utf-8") {
		return ""
	}
	text, err := url.PathUnescape(encoded)
	if err != nil {
		return ""
	}
	return text
}
