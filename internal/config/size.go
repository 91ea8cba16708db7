package config

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// Size is a number of bytes, written as people do: "512M", "1.5G", "4096".
// Units are powers of 1024 whether or not "B" or "iB" follows, in either case.
// Sizes are never negative.
type Size int64

// The units of Size.
const (
	Byte Size = 1
	KiB       = 1024 * Byte
	MiB       = 1024 * KiB
	GiB       = 1024 * MiB
	TiB       = 1024 * GiB
)

// sizeUnits is ordered from the largest, for String.
var sizeUnits = [...]struct {
	letter byte
	size   Size
}{{'T', TiB}, {'G', GiB}, {'M', MiB}, {'K', KiB}}

// maxNumber bounds the length of a number, so that parsing stays cheap.
const maxNumber = 32

// ParseSize reads a size. What remains of a fraction below one byte is dropped.
func ParseSize(text string) (Size, error) {
	number, unit, err := splitSize(text)
	if err != nil {
		return 0, err
	}
	value, ok := new(big.Rat).SetString(number)
	if !ok {
		return 0, sizeError(text)
	}
	value.Mul(value, new(big.Rat).SetInt64(int64(unit)))
	whole := new(big.Int).Quo(value.Num(), value.Denom())
	if !whole.IsInt64() {
		return 0, fmt.Errorf("size %q is too large", text)
	}
	return Size(whole.Int64()), nil
}

// splitSize separates the number from its unit and checks the number's form.
func splitSize(text string) (number string, unit Size, err error) {
	number = strings.TrimSuffix(strings.ToUpper(strings.TrimSpace(text)), "B")
	number, binary := strings.CutSuffix(number, "I")
	unit = Byte
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(number, string(u.letter)); ok {
			number, unit = strings.TrimSpace(rest), u.size
			break
		}
	}
	if !isDecimal(number) || binary && unit == Byte {
		return "", 0, sizeError(text)
	}
	return number, unit, nil
}

// isDecimal reports whether s is digits with at most one dot inside.
func isDecimal(s string) bool {
	whole, fraction, dotted := strings.Cut(s, ".")
	return len(s) <= maxNumber && allDigits(whole) && (!dotted || allDigits(fraction))
}

func allDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

func sizeError(text string) error {
	return fmt.Errorf("%q is not a size; write bytes or a number with K, M, G or T, such as 512M or 1.5G", text)
}

// String returns the shortest exact form with at most two decimals, such as
// "1.5G"; ParseSize reads it back to the same size.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s < u.size || s > math.MaxInt64/100 {
			continue
		}
		if s*100%u.size == 0 {
			return strconv.FormatFloat(float64(s*100/u.size)/100, 'f', -1, 64) + string(u.letter)
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// Bytes returns s as a plain number.
func (s Size) Bytes() int64 { return int64(s) }

// Set reads a size from a command line flag.
func (s *Size) Set(text string) error {
	v, err := ParseSize(text)
	if err != nil {
		return err
	}
	*s = v
	return nil
}

// Type names the kind of value in help texts.
func (*Size) Type() string { return "size" }

// MarshalText gives the form of String.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what ParseSize reads.
func (s *Size) UnmarshalText(text []byte) error { return s.Set(string(text)) }

// UnmarshalJSON reads a string or a plain number of bytes.
func (s *Size) UnmarshalJSON(data []byte) error {
	var text string
	if len(data) > 0 && data[0] != '"' {
		return s.Set(string(data))
	}
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	return s.Set(text)
}

// UnmarshalTOML reads a string or an integer number of bytes.
func (s *Size) UnmarshalTOML(value any) error {
	switch v := value.(type) {
	case string:
		return s.Set(v)
	case int64:
		return s.Set(strconv.FormatInt(v, 10))
	}
	return fmt.Errorf("%v is not a size; write a string such as \"512M\"", value)
}
