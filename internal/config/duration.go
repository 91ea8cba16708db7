package config

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a length of time, written as people do: "30s", "5m", "1h30m",
// "7d". It reads what time.ParseDuration reads, and days before it. Durations
// are never negative.
type Duration time.Duration

// Day is the longest unit a Duration knows.
const Day = Duration(24 * time.Hour)

// ParseDuration reads a duration.
func ParseDuration(text string) (Duration, error) {
	rest := strings.TrimSpace(text)
	var days Duration
	if number, after, ok := strings.Cut(rest, "d"); ok {
		n, err := strconv.ParseInt(number, 10, 32)
		if err != nil || !allDigits(number) || n > int64(math.MaxInt64/Day) {
			return 0, durationError(text)
		}
		days, rest = Duration(n)*Day, after
		if rest == "" {
			return days, nil
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || rest[0] == '-' || rest[0] == '+' || Duration(d) > math.MaxInt64-days {
		return 0, durationError(text)
	}
	return days + Duration(d), nil
}

func durationError(text string) error {
	return fmt.Errorf("%q is not a length of time; write a number with ms, s, m, h or d, such as 30s, 5m or 1d", text)
}

// String returns the form people write: "1d12h", "5m", "250ms". ParseDuration
// reads it back to the same duration.
func (d Duration) String() string {
	if d <= 0 {
		return time.Duration(d).String()
	}
	var b strings.Builder
	for _, u := range [...]struct {
		letter byte
		size   Duration
	}{{'d', Day}, {'h', Duration(time.Hour)}, {'m', Duration(time.Minute)}} {
		if n := d / u.size; n > 0 {
			b.WriteString(strconv.FormatInt(int64(n), 10))
			b.WriteByte(u.letter)
			d %= u.size
		}
	}
	if d > 0 {
		b.WriteString(time.Duration(d).String())
	}
	return b.String()
}

// Std returns d as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// Set reads a duration from a command line flag.
func (d *Duration) Set(text string) error {
	v, err := ParseDuration(text)
	if err != nil {
		return err
	}
	*d = v
	return nil
}

// Type names the kind of value in help texts.
func (*Duration) Type() string { return "time" }

// MarshalText gives the form of String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error { return d.Set(string(text)) }

// UnmarshalJSON reads a string. A plain number is refused: its unit would be a guess.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return durationError(string(data))
	}
	return d.Set(text)
}
