package fake_test

import (
	"testing"

	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/driver/drivertest"
	"github.com/sandlot-dev/sandlot/internal/driver/fake"
)

func TestFake(t *testing.T) {
	var host fake.Host
	drivertest.Run(t, drivertest.Options{
		New:  func(testing.TB) driver.Driver { return host.Driver() },
		Spec: func(t testing.TB) driver.Spec { return drivertest.Spec(t, "/layer") },
		Left: func(testing.TB) []string {
			var left []string
			for _, id := range host.Living() {
				left = append(left, string(id))
			}
			return left
		},
	})
}
