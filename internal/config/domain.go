package config

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Localhost is the domain of servers that have none: names below it mean this
// machine wherever they are resolved.
const Localhost = "localhost"

// httpsPort needs no mention in a URL.
const httpsPort = 443

// DomainName returns the domain in lower case and without a port; Localhost if
// none is configured.
func (c *Config) DomainName() string {
	name, _ := splitDomain(c.Domain)
	if name == "" {
		return Localhost
	}
	return strings.ToLower(name)
}

// PublishedDomain returns what is told to clients: the domain with the port
// they are to use. That is the listener's, unless the domain names another, as
// it does for a server behind a proxy.
func (c *Config) PublishedDomain(listener int) string {
	if _, port := splitDomain(c.Domain); port != "" {
		listener, _ = strconv.Atoi(port) // validated
	}
	if listener == httpsPort {
		return c.DomainName()
	}
	return net.JoinHostPort(c.DomainName(), strconv.Itoa(listener))
}

func splitDomain(domain string) (name, port string) {
	name, port, _ = strings.Cut(domain, ":")
	return name, port
}

func checkDomain(domain string) error {
	if domain == "" {
		return nil
	}
	name, port := splitDomain(domain)
	if n, err := strconv.ParseUint(port, 10, 16); strings.Contains(domain, ":") && (err != nil || n == 0) {
		return fmt.Errorf("%q has no usable port", domain)
	}
	labels := strings.Split(strings.ToLower(name), ".")
	for _, label := range labels {
		if !validLabel(label) {
			return fmt.Errorf("%q is not a domain; write it like sandlot.example.org", domain)
		}
	}
	// A sandbox's name and a dot go in front.
	if len(name) > 253-64 {
		return fmt.Errorf("%q is too long for host names below it", domain)
	}
	if _, err := strconv.Atoi(labels[len(labels)-1]); err == nil {
		return fmt.Errorf("%q is an address, which can have no names below it; write a domain", domain)
	}
	return nil
}

func validLabel(label string) bool {
	if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
		return false
	}
	return strings.IndexFunc(label, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
	}) < 0
}
