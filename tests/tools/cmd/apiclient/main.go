// Command apiclient makes one call to Tailscale's API through Tailscale's own public client, and prints the client's result.
//
// It reads one request from standard input and prints one answer. The tests check devcontrol with it, because this client defines
// Tailscale's API independently of our own client.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"tailscale.com/client/tailscale/v2"
)

// request is one call by one OAuth client.
type request struct {
	BaseURL       string   `json:"baseURL"`
	ID            string   `json:"id"`
	Secret        string   `json:"secret"`
	Call          string   `json:"call"` // createKey, devices, device, rename, tags or delete
	Device        string   `json:"device"`
	Name          string   `json:"name"`
	Tags          []string `json:"tags"`
	Ephemeral     bool     `json:"ephemeral"`
	ExpirySeconds int64    `json:"expirySeconds"`
	Description   string   `json:"description"`
}

// answer has a result or an error; status is 0 if the error is not one of the API.
type answer struct {
	Result any    `json:"result,omitempty"`
	Error  string `json:"error,omitempty"`
	Status int    `json:"status,omitempty"`
}

func main() {
	var r request
	if err := json.NewDecoder(os.Stdin).Decode(&r); err != nil {
		fmt.Fprintln(os.Stderr, "apiclient:", err)
		os.Exit(2)
	}
	result, err := call(r)
	a := answer{Result: result}
	if err != nil {
		a = answer{Error: err.Error()}
		var refused tailscale.APIError
		if errors.As(err, &refused) {
			a = answer{Error: refused.Message, Status: refused.Status}
		}
	}
	json.NewEncoder(os.Stdout).Encode(a)
}

func call(r request) (any, error) {
	base, err := url.Parse(r.BaseURL)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	client := &tailscale.Client{BaseURL: base, Auth: &tailscale.OAuth{ClientID: r.ID, ClientSecret: r.Secret}}
	switch r.Call {
	case "createKey":
		req := tailscale.CreateKeyRequest{ExpirySeconds: r.ExpirySeconds, Description: r.Description}
		req.Capabilities.Devices.Create.Tags = r.Tags
		req.Capabilities.Devices.Create.Ephemeral = r.Ephemeral
		req.Capabilities.Devices.Create.Preauthorized = true
		return client.Keys().CreateAuthKey(ctx, req)
	case "devices":
		return client.Devices().List(ctx)
	case "device":
		return client.Devices().Get(ctx, r.Device)
	case "rename":
		return nil, client.Devices().SetName(ctx, r.Device, r.Name)
	case "tags":
		return nil, client.Devices().SetTags(ctx, r.Device, r.Tags)
	case "delete":
		return nil, client.Devices().Delete(ctx, r.Device)
	}
	return nil, fmt.Errorf("there is no call %q", r.Call)
}
