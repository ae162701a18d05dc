// Each library asks for what is allowed, for what carries a secret, and for a host that no route names, and says in a line
// what came of it: `library|what|outcome`. Nothing in here knows of carboy.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
)

const waitMax = 20 * time.Second

// Messages are octets: no generated code is needed.
type raw struct{}

func (raw) Marshal(v interface{}) ([]byte, error) { return v.([]byte), nil }
func (raw) Unmarshal(data []byte, v interface{}) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}
func (raw) Name() string { return "raw" }

func netHTTP(host, text string) (string, error) {
	answer, err := http.Post("https://"+host+"/echo?net-http", "text/plain", strings.NewReader(text))
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(answer.Body)
	return fmt.Sprint(answer.StatusCode, " ", answer.Proto, " ", string(body)), err
}

func call(host string, ask func(context.Context, *grpc.ClientConn) (string, error)) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), waitMax)
	defer cancel()
	conn, err := grpc.Dial(host+":443", grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{})))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return ask(ctx, conn)
}

func unary(host, text string) (string, error) {
	return unaryWith(host, text)
}

func packed(host, text string) (string, error) {
	return unaryWith(host, text, grpc.UseCompressor(gzip.Name))
}

func unaryWith(host, text string, options ...grpc.CallOption) (string, error) {
	return call(host, func(ctx context.Context, conn *grpc.ClientConn) (string, error) {
		var out []byte
		var trailer metadata.MD
		options = append(options, grpc.ForceCodec(raw{}), grpc.Trailer(&trailer))
		err := conn.Invoke(ctx, "/carboy.sim.Echo/Echo", []byte(text), &out, options...)
		return fmt.Sprint("OK ", string(out), " ", trailer), err
	})
}

func stream(host, text string) (string, error) {
	return call(host, func(ctx context.Context, conn *grpc.ClientConn) (string, error) {
		desc := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
		both, err := conn.NewStream(ctx, desc, "/carboy.sim.Echo/Repeat", grpc.ForceCodec(raw{}))
		if err != nil {
			return "", err
		}
		told := ""
		for n := 0; n < 3; n++ {
			message := fmt.Sprint(n)
			if n == 2 {
				message = text
			}
			if err := both.SendMsg([]byte(message)); err != nil && err != io.EOF {
				return "", err
			}
			for back := 0; back < 3; back++ {
				var out []byte
				if err := both.RecvMsg(&out); err != nil {
					return "", err
				}
				told += string(out) + " "
			}
		}
		both.CloseSend()
		var out []byte
		if err := both.RecvMsg(&out); err != io.EOF {
			return "", fmt.Errorf("no end: %v", err)
		}
		return fmt.Sprint("OK ", told, both.Trailer()), nil
	})
}

func attempt(client, what string, ask func(host, text string) (string, error), host, text string) {
	outcome, err := ask(host, text)
	if err != nil {
		outcome = err.Error()
	}
	fmt.Printf("%s|%s|%s\n", client, what, strings.ReplaceAll(outcome, "\n", " "))
}

func main() {
	secret := os.Args[1]
	clients := []struct {
		name string
		ask  func(host, text string) (string, error)
	}{{"net/http", netHTTP}, {"grpc-go unary", unary}, {"grpc-go stream", stream}}
	for _, client := range clients {
		attempt(client.name, "allowed", client.ask, "notes.example", "hello from "+client.name)
		attempt(client.name, "secret", client.ask, "notes.example", client.name+", "+secret)
		attempt(client.name, "denied", client.ask, "denied.example", "anybody there?")
	}
	attempt("grpc-go unary", "packed", packed, "notes.example", "packed, "+secret)
}
