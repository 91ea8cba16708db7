package edge

import (
	"strconv"
	"strings"
)

// maxAccept bounds how much of an Accept header is looked at, in bytes.
const maxAccept = 1 << 10

// wantsPage reports whether a client would rather read HTML than JSON, as
// browsers say they would. "*/*" prefers nothing, and gets JSON.
func wantsPage(accept []string) bool {
	page, data := weights(accept)
	return page > 0 && page > data
}

// weights returns how much a client wants HTML and JSON (RFC 9110, 12.5.1).
func weights(accept []string) (page, data float64) {
	var html, json, any media
	for _, line := range accept {
		for item := range strings.SplitSeq(line[:min(len(line), maxAccept)], ",") {
			name, parameters, _ := strings.Cut(item, ";")
			q := quality(parameters)
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "text/html":
				html.offer(3, q)
			case "text/*":
				html.offer(2, q)
			case "application/json":
				json.offer(3, q)
			case "application/*":
				json.offer(2, q)
			case "*/*":
				any.offer(1, q)
			}
		}
	}
	return html.or(any), json.or(any)
}

// media is the weight given by the most specific range so far.
type media struct {
	specificity int
	q           float64
}

func (m *media) offer(specificity int, q float64) {
	if specificity > m.specificity {
		m.specificity, m.q = specificity, q
	}
}

func (m media) or(other media) float64 {
	if m.specificity == 0 {
		return other.q
	}
	return m.q
}

// quality reads the weight among a media range's parameters: 1 if there is none,
// 0 if it is not a number from 0 to 1.
func quality(parameters string) float64 {
	for p := range strings.SplitSeq(parameters, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if !strings.EqualFold(name, "q") {
			continue
		}
		q, err := strconv.ParseFloat(value, 64)
		if err != nil || !(q >= 0 && q <= 1) { // NaN is neither
			return 0
		}
		return q
	}
	return 1
}
