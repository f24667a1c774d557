// Command cniclient is the runtime's side of CNI: libcni, controlled by one JSON request.
//
// It reads one request from standard input, makes the libcni call of the request, and prints one answer. It exists because cnitool supports
// neither GC nor STATUS, and passes neither CNI_ARGS nor several capability arguments. It makes no decisions: what libcni does with a list
// (order, prevResult, its cache) is what a runtime gets.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
)

// request contains what a runtime specifies: the list, the attachment, and the arguments that it passes on.
type request struct {
	Verb           string         `json:"verb"`     // ADD, DEL, CHECK, GC, STATUS or VALIDATE
	Conflist       string         `json:"conflist"` // file
	Path           []string       `json:"path"`     // CNI_PATH
	CacheDir       string         `json:"cacheDir"`
	ContainerID    string         `json:"containerID"`
	Netns          string         `json:"netns"`
	IfName         string         `json:"ifname"`
	Args           [][2]string    `json:"args"` // CNI_ARGS, in order
	CapabilityArgs map[string]any `json:"capabilityArgs"`
	// ValidAttachments is absent (GC without the key), null or a list; each of the three has a different meaning.
	ValidAttachments json.RawMessage `json:"validAttachments"`
}

// answer has a result (ADD), an error, or neither.
type answer struct {
	Result any          `json:"result,omitempty"`
	Error  *types.Error `json:"error,omitempty"`
}

func main() {
	if err := serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "cniclient:", err)
		os.Exit(2)
	}
}

func serve(in io.Reader, out io.Writer) error {
	decoder := json.NewDecoder(in)
	decoder.DisallowUnknownFields()
	var asked request
	if err := decoder.Decode(&asked); err != nil {
		return err
	}
	result, err := call(asked)
	return json.NewEncoder(out).Encode(answer{Result: result, Error: asCNIError(err)})
}

func call(asked request) (any, error) {
	list, err := libcni.NetworkConfFromFile(asked.Conflist)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	cni := libcni.NewCNIConfigWithCacheDir(asked.Path, asked.CacheDir, &invoke.DefaultExec{
		RawExec: &invoke.RawExec{Stderr: os.Stderr},
	})
	attachment := &libcni.RuntimeConf{
		ContainerID:    asked.ContainerID,
		NetNS:          asked.Netns,
		IfName:         asked.IfName,
		Args:           asked.Args,
		CapabilityArgs: asked.CapabilityArgs,
	}
	switch asked.Verb {
	case "ADD":
		return cni.AddNetworkList(ctx, list, attachment)
	case "DEL":
		return nil, cni.DelNetworkList(ctx, list, attachment)
	case "CHECK":
		return nil, cni.CheckNetworkList(ctx, list, attachment)
	case "STATUS":
		return nil, cni.GetStatusNetworkList(ctx, list)
	case "VALIDATE":
		return cni.ValidateNetworkList(ctx, list)
	case "GC":
		valid, err := gcArgs(asked.ValidAttachments)
		if err != nil {
			return nil, err
		}
		return nil, cni.GCNetworkList(ctx, list, valid)
	default:
		return nil, fmt.Errorf("no such verb: %q", asked.Verb)
	}
}

func gcArgs(raw json.RawMessage) (*libcni.GCArgs, error) {
	if raw == nil {
		return nil, nil
	}
	args := &libcni.GCArgs{}
	return args, json.Unmarshal(raw, &args.ValidAttachments)
}

// asCNIError keeps a plugin's code and message; an error of libcni itself has no code.
func asCNIError(err error) *types.Error {
	if err == nil {
		return nil
	}
	var said *types.Error
	if errors.As(err, &said) {
		return said
	}
	return &types.Error{Msg: err.Error()}
}
