package wire

import (
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/sandlot-dev/sandlot/gen/envd/filesystem"
)

// appendList appends a directory listing, which may have a million entries.
// Fields without a value are left out, as the protobuf JSON mapping does.
func appendList(dst []byte, list *filesystem.ListDirResponse) []byte {
	if len(list.GetEntries()) == 0 {
		return append(dst, "{}"...)
	}
	dst = append(dst, `{"entries":[`...)
	for i, e := range list.GetEntries() {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendEntry(dst, e)
	}
	return append(dst, "]}"...)
}

// AppendEntry appends the JSON of one entry to dst.
func AppendEntry(dst []byte, e *filesystem.EntryInfo) []byte {
	// The name first: there is always one, so that commas only precede.
	dst = append(dst, `{"name":`...)
	dst = appendString(dst, e.GetName())
	if e.GetType() != 0 {
		dst = append(dst, `,"type":"`...)
		dst = append(dst, typeName(e.GetType())...)
		dst = append(dst, '"')
	}
	dst = appendField(dst, `,"path":`, e.GetPath())
	if e.GetSize() != 0 {
		dst = append(dst, `,"size":"`...)
		dst = strconv.AppendInt(dst, e.GetSize(), 10)
		dst = append(dst, '"')
	}
	if e.GetMode() != 0 {
		dst = append(dst, `,"mode":`...)
		dst = strconv.AppendUint(dst, uint64(e.GetMode()), 10)
	}
	dst = appendField(dst, `,"permissions":`, e.GetPermissions())
	dst = appendField(dst, `,"owner":`, e.GetOwner())
	dst = appendField(dst, `,"group":`, e.GetGroup())
	if t := e.GetModifiedTime(); t != nil {
		dst = append(dst, `,"modifiedTime":"`...)
		dst = appendTime(dst, t.GetSeconds(), t.GetNanos())
		dst = append(dst, '"')
	}
	if e.SymlinkTarget != nil {
		dst = append(dst, `,"symlinkTarget":`...)
		dst = appendString(dst, e.GetSymlinkTarget())
	}
	if len(e.GetMetadata()) > 0 {
		dst = appendMap(dst, `,"metadata":`, e.GetMetadata())
	}
	return append(dst, '}')
}

func typeName(t filesystem.FileType) string {
	switch t {
	case filesystem.FileType_FILE_TYPE_FILE:
		return "FILE_TYPE_FILE"
	case filesystem.FileType_FILE_TYPE_DIRECTORY:
		return "FILE_TYPE_DIRECTORY"
	default:
		return t.String()
	}
}

func appendField(dst []byte, name, value string) []byte {
	if value == "" {
		return dst
	}
	return appendString(append(dst, name...), value)
}

func appendMap(dst []byte, name string, m map[string]string) []byte {
	dst = append(dst, name...)
	separator := byte('{')
	for _, key := range slices.Sorted(maps.Keys(m)) {
		dst = appendString(append(dst, separator), key)
		dst = appendString(append(dst, ':'), m[key])
		separator = ','
	}
	return append(dst, '}')
}

// appendTime appends an RFC 3339 time with as many groups of three decimals as
// it needs.
func appendTime(dst []byte, seconds int64, nanos int32) []byte {
	dst = time.Unix(seconds, 0).UTC().AppendFormat(dst, "2006-01-02T15:04:05")
	if nanos > 0 {
		digits := strconv.AppendInt(nil, int64(nanos)+1_000_000_000, 10)[1:]
		for digits[len(digits)-1] == '0' && digits[len(digits)-2] == '0' && digits[len(digits)-3] == '0' {
			digits = digits[:len(digits)-3]
		}
		dst = append(append(dst, '.'), digits...)
	}
	return append(dst, 'Z')
}

// appendString appends a JSON string. Bytes that are not UTF-8 become U+FFFD.
func appendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		size := 1
		if c >= utf8.RuneSelf {
			var r rune
			if r, size = utf8.DecodeRuneInString(s[i:]); r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
		}
		dst = append(dst, s[start:i]...)
		switch {
		case c >= utf8.RuneSelf:
			dst = append(dst, "\uFFFD"...)
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i += size
		start = i
	}
	return append(append(dst, s[start:]...), '"')
}
