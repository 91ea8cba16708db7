package bench

import (
	"math"
	"slices"
)

// Summary describes samples. Percentiles are samples that occurred (nearest
// rank), so that with few samples p99 is the maximum.
type Summary struct {
	N   int     `json:"n"`
	Min float64 `json:"min"`
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
}

// Summarize describes samples, whose order does not matter and is kept.
func Summarize(samples []float64) Summary {
	if len(samples) == 0 {
		return Summary{}
	}
	s := slices.Sorted(slices.Values(samples))
	return Summary{N: len(s), Min: s[0], P50: percentile(s, 50), P95: percentile(s, 95), P99: percentile(s, 99)}
}

// percentile returns the smallest sample that at least p percent of the sorted
// samples do not exceed.
func percentile(sorted []float64, p int) float64 {
	rank := int(math.Ceil(float64(p) * float64(len(sorted)) / 100))
	return sorted[max(rank, 1)-1]
}
