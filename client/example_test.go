package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/client"
	"github.com/sandlot-dev/sandlot/internal/clienttest"
)

// newClient stands for client.New(client.Options{}), which finds the server by
// itself; the examples run against a fake one.
func newClient() (c *client.Client, stop func()) {
	server, stop := clienttest.Start()
	c, err := client.New(client.Options{APIURL: server.URL, APIKey: clienttest.Key})
	if err != nil {
		panic(err)
	}
	return c, stop
}

func Example() {
	c, stop := newClient() // client.New(client.Options{})
	defer stop()
	ctx := context.Background()

	sbx, err := c.Create(ctx, client.WithTimeout(5*time.Minute))
	if err != nil {
		panic(err)
	}
	defer func() { _ = sbx.Kill(ctx) }()

	if err := sbx.Files.Write(ctx, "greeting.txt", []byte("hello from inside\n")); err != nil {
		panic(err)
	}
	result, err := sbx.Commands.Run(ctx, "cat greeting.txt")
	if err != nil {
		panic(err)
	}
	fmt.Print(result.Stdout)
	// Output: hello from inside
}

func ExampleClient_Create() {
	c, stop := newClient()
	defer stop()
	ctx := context.Background()

	sbx, err := c.Create(ctx,
		client.WithTemplate("base"),
		client.WithTimeout(90*time.Second),
		client.WithMetadata(map[string]string{"job": "42"}),
		client.WithEnv(map[string]string{"NAME": "world"}),
	)
	if err != nil {
		panic(err)
	}
	defer func() { _ = sbx.Kill(ctx) }()
	result, err := sbx.Commands.Run(ctx, `echo "hello $NAME"`)
	fmt.Print(result.Stdout)
	fmt.Println(result.ExitCode, err)
	// Output:
	// hello world
	// 0 <nil>
}

func ExampleClient_List() {
	c, stop := newClient()
	defer stop()
	ctx := context.Background()
	for _, job := range []string{"a", "b", "a"} {
		if _, err := c.Create(ctx, client.WithMetadata(map[string]string{"job": job})); err != nil {
			panic(err)
		}
	}

	n := 0
	for info, err := range c.List(ctx, client.Filter{Metadata: map[string]string{"job": "a"}}) {
		if err != nil {
			panic(err)
		}
		n++
		fmt.Println(info.Alias, info.State, info.Metadata["job"])
	}
	fmt.Println(n)
	// Output:
	// base running a
	// base running a
	// 2
}

func ExampleCommands_Start() {
	c, stop := newClient()
	defer stop()
	ctx := context.Background()
	sbx, err := c.Create(ctx)
	if err != nil {
		panic(err)
	}
	defer func() { _ = sbx.Kill(ctx) }()

	// Output arrives while the command runs; its standard input is ours.
	cmd, err := sbx.Commands.Start(ctx, "tr a-z A-Z", client.WithStdin(), client.WithStdout(os.Stdout))
	if err != nil {
		panic(err)
	}
	if err := cmd.SendStdin(ctx, []byte("one\ntwo\n")); err != nil {
		panic(err)
	}
	if err := cmd.CloseStdin(ctx); err != nil {
		panic(err)
	}
	if _, err := cmd.Wait(ctx); err != nil {
		panic(err)
	}
	// Output:
	// ONE
	// TWO
}

func ExampleCommands_Exec() {
	c, stop := newClient()
	defer stop()
	ctx := context.Background()
	sbx, err := c.Create(ctx)
	if err != nil {
		panic(err)
	}
	defer func() { _ = sbx.Kill(ctx) }()

	_, err = sbx.Commands.Exec(ctx, []string{"ls", "/no such file"})
	if exit, ok := errors.AsType[*client.ExitError](err); ok {
		fmt.Println("exit code", exit.Result.ExitCode)
	}
	// Output: exit code 2
}

func ExampleFiles_WriteStream() {
	c, stop := newClient()
	defer stop()
	ctx := context.Background()
	sbx, err := c.Create(ctx)
	if err != nil {
		panic(err)
	}
	defer func() { _ = sbx.Kill(ctx) }()

	if err := sbx.Files.WriteStream(ctx, "data/numbers", strings.NewReader("1 2 3")); err != nil {
		panic(err)
	}
	body, err := sbx.Files.ReadStream(ctx, "data/numbers")
	if err != nil {
		panic(err)
	}
	defer func() { _ = body.Close() }()
	_, _ = io.Copy(os.Stdout, body)
	// Output: 1 2 3
}

func ExampleError() {
	c, stop := newClient()
	defer stop()

	err := c.Kill(context.Background(), "i0000000000000000000")
	fmt.Println(errors.Is(err, client.ErrNotFound))
	fmt.Println(err)
	// Output:
	// true
	// sandbox i0000000000000000000 does not exist
}
