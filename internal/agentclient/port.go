package agentclient

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

const (
	// dialTimeout bounds DialPort where the caller's context does not. The agent
	// gives up earlier by itself.
	dialTimeout = 15 * time.Second
	// established is what an agent answers to a CONNECT that worked. Others with
	// that status are taken too, if they are no shorter.
	established = "HTTP/1.1 200 Connection established\r\n\r\n"
	// maxConnectReply bounds the agent's answer to CONNECT, header and error.
	maxConnectReply = 4 << 10
)

// DialPort connects to a TCP port on the sandbox's own loopback. The connection
// is the one dial returned, with nothing of the stream read yet, so that the
// kernel can splice it; closing its writing side ends the server's input. When
// nothing listens, the error has kind Unavailable.
func (c *Client) DialPort(ctx context.Context, port uint16) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, errs.Wrap(err, errs.Unavailable, "the sandbox does not answer")
	}
	// Whatever ends ctx interrupts the exchange.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(0, 0)) })
	err = connect(conn, port)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		err = errors.Join(err, conn.Close())
		if ctx.Err() != nil {
			err = errs.Wrap(errors.Join(ctx.Err(), err), errs.Timeout, "no connection to port %d of the sandbox in time", port)
		}
		return nil, err
	}
	return conn, nil
}

// connect asks for a tunnel on a fresh connection.
func connect(conn net.Conn, port uint16) error {
	target := "localhost:" + strconv.Itoa(int(port))
	if _, err := io.WriteString(conn, "CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n\r\n"); err != nil {
		return errs.Wrap(err, errs.Unavailable, "the sandbox does not answer")
	}
	header, err := readHeader(conn)
	if err != nil {
		return errs.Wrap(err, errs.Unavailable, "the sandbox gave no valid answer")
	}
	status, err := statusOf(header)
	if err != nil {
		return errs.Wrap(err, errs.Unavailable, "the sandbox gave no valid answer")
	}
	if status == 200 {
		return nil
	}
	return refused(header, conn, port)
}

// refused reads the rest of a reply that is not a tunnel; the connection is of
// no further use.
func refused(header string, conn net.Conn, port uint16) error {
	rest := io.LimitReader(conn, maxConnectReply)
	res, err := http.ReadResponse(bufio.NewReader(io.MultiReader(strings.NewReader(header), rest)), nil)
	if err != nil {
		return errs.Wrap(err, errs.Unavailable, "the sandbox gave no valid answer")
	}
	defer res.Body.Close()
	return refusal("connect to port "+strconv.Itoa(int(port)), res.StatusCode, res.Body)
}

// readHeader reads up to and with the empty line, and nothing of what follows,
// which belongs to the tunnel and must stay in the socket: first as much as the
// usual answer has, then byte by byte. An agent that answers in fewer bytes and
// sends more with them gets an error.
func readHeader(r io.Reader) (string, error) {
	header := make([]byte, len(established), 128)
	if _, err := io.ReadFull(r, header); err != nil {
		return "", err
	}
	for !bytes.HasSuffix(header, []byte("\r\n\r\n")) {
		if len(header) == maxConnectReply {
			return "", errors.New("the reply's header is too long")
		}
		header = append(header, 0)
		if _, err := io.ReadFull(r, header[len(header)-1:]); err != nil {
			return "", err
		}
	}
	return string(header), nil
}

// statusOf parses the status line.
func statusOf(header string) (int, error) {
	line, _, _ := strings.Cut(header, "\r\n")
	version, rest, ok := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	status, err := strconv.Atoi(code)
	if !ok || !strings.HasPrefix(version, "HTTP/1.") || err != nil || status < 100 || status > 599 {
		return 0, fmt.Errorf("status line %q", clean(line))
	}
	return status, nil
}
