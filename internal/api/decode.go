package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// maxBody bounds the body of a request in bytes.
const maxBody = 1 << 20

// decode reads a JSON object into v. Unknown fields and anything after the
// object are errors. An empty body leaves v as it is when optional.
func decode(w http.ResponseWriter, r *http.Request, v any, optional bool) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return decodeError(err)
	}
	if !utf8.Valid(body) { // encoding/json would replace what is not
		return errs.New(errs.Invalid, "the body is not UTF-8 text")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	err = dec.Decode(v)
	if errors.Is(err, io.EOF) {
		if optional {
			return nil
		}
		return errs.New(errs.Invalid, "the body is empty: send a JSON object")
	}
	if err != nil {
		return decodeError(err)
	}
	if rest := bytes.TrimSpace(body[dec.InputOffset():]); len(rest) > 0 {
		return errs.New(errs.Invalid, "the body holds something after the JSON object")
	}
	return nil
}

// decodeError says in the client's words what was wrong with a body.
func decodeError(err error) error {
	var tooLarge *http.MaxBytesError
	var syntax *json.SyntaxError
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &tooLarge):
		return errs.Wrap(err, errs.TooLarge, "the body is larger than %d bytes", tooLarge.Limit)
	case errors.As(err, &syntax):
		return errs.Wrap(err, errs.Invalid, "the body is not JSON: %v at byte %d", err, syntax.Offset)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errs.Wrap(err, errs.Invalid, "the body ends in the middle of the JSON object")
	case errors.As(err, &wrongType):
		field := wrongType.Field
		if field == "" {
			field = "the body"
		}
		return errs.Wrap(err, errs.Invalid, "%s must be %s, not %s", field, typeName(wrongType.Type), wrongType.Value)
	}
	// encoding/json has no type for this one.
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return errs.Wrap(err, errs.Invalid, "the field %s is unknown: remove it or check its spelling", name)
	}
	return errs.Wrap(err, errs.Invalid, "the body could not be read")
}

// typeName returns the JSON name of a Go type.
func typeName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Slice:
		return "an array"
	default:
		return "an object"
	}
}

// seconds turns a number of seconds into a duration, the longest one when it
// does not fit.
func seconds(n int) time.Duration {
	const most = math.MaxInt64 / int64(time.Second)
	return time.Duration(max(-most, min(most, int64(n)))) * time.Second
}

// query reads query parameters and keeps the first error.
type query struct {
	values url.Values
	err    error
}

// parseQuery refuses parameters that are not among known: a misspelt filter
// must not match everything.
func parseQuery(r *http.Request, known ...string) *query {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return &query{err: errs.Wrap(err, errs.Invalid, "the query is malformed: percent-encode its values")}
	}
	for name := range values {
		if !slices.Contains(known, name) {
			return &query{err: errs.New(errs.Invalid, "the query parameter %q is unknown; known are %s", name, strings.Join(known, ", "))}
		}
	}
	return &query{values: values}
}

func (q *query) fail(format string, args ...any) {
	if q.err == nil {
		q.err = errs.New(errs.Invalid, format, args...)
	}
}

// text returns a parameter, empty if absent. Repeated ones are joined by
// commas, which is how arrays are written.
func (q *query) text(name string) string { return strings.Join(q.values[name], ",") }

// oneOf returns a parameter that must be one of the choices, the first if absent.
func (q *query) oneOf(name string, choices ...string) string {
	v := q.text(name)
	if v == "" {
		return choices[0]
	}
	if !slices.Contains(choices, v) {
		q.fail("%s must be one of %s", name, strings.Join(choices, ", "))
	}
	return v
}

// integer returns a parameter between low and high, absent if absent.
func (q *query) integer(name string, low, high, absent int) int {
	v := q.text(name)
	if v == "" {
		return absent
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < low || n > high {
		q.fail("%s must be a whole number from %d to %d", name, low, high)
	}
	return n
}

// time returns a parameter in RFC 3339, zero if absent.
func (q *query) time(name string) time.Time {
	v := q.text(name)
	if v == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, v)
	if err != nil {
		q.fail("%s must be a time such as 2026-01-31T12:00:00Z", name)
	}
	return t
}

// pairs returns a parameter of the form k=v&k2=v2, whose keys and values were
// percent-encoded on their own before the text as a whole was.
func (q *query) pairs(name string) map[string]string {
	v := q.text(name)
	if v == "" {
		return nil
	}
	pairs, err := parsePairs(v)
	if err != nil {
		q.fail("%s must be key=value pairs joined by '&', percent-encoded: %v", name, err)
	}
	return pairs
}

func parsePairs(text string) (map[string]string, error) {
	outer, err := url.ParseQuery(text)
	if err != nil {
		return nil, err
	}
	pairs := make(map[string]string, len(outer))
	for k, vs := range outer {
		if len(vs) > 1 {
			return nil, fmt.Errorf("%q is given twice", k)
		}
		key, err1 := url.PathUnescape(k) // '+' is a plus on this level
		value, err2 := url.PathUnescape(vs[0])
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		pairs[key] = value
	}
	return pairs, nil
}
