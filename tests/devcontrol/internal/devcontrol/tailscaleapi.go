package devcontrol

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tailscaleAPI is the part of Tailscale's HTTP API (https://tailscale.com/api) that tailscale-cni uses, with its errors: {"message": …}.
// tests/tools/cmd/apiclient checks it with Tailscale's own public client.
//
//	POST   /api/v2/oauth/token            form: client_id, client_secret
//	POST   /api/v2/tailnet/-/keys         scope auth_keys
//	GET    /api/v2/tailnet/-/devices      scope devices:core:read
//	GET    /api/v2/device/{id}            by nodeId, or by the number that was used before nodeId existed
//	DELETE /api/v2/device/{id}            scope devices:core
//	POST   /api/v2/device/{id}/name
//	POST   /api/v2/device/{id}/tags
func tailscaleAPI(t *Tailnet) http.Handler {
	a := tailscale{t}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v2/oauth/token", a.issueToken)
	mux.HandleFunc("POST /api/v2/tailnet/{tailnet}/keys", a.scoped("auth_keys", a.createKey))
	mux.HandleFunc("GET /api/v2/tailnet/{tailnet}/devices", a.scoped("devices:core:read", a.listDevices))
	mux.HandleFunc("GET /api/v2/device/{id}", a.scoped("devices:core:read", a.onDevice(a.showDevice)))
	mux.HandleFunc("DELETE /api/v2/device/{id}", a.scoped("devices:core", a.onDevice(a.deleteDevice)))
	mux.HandleFunc("POST /api/v2/device/{id}/name", a.scoped("devices:core", a.onDevice(a.nameDevice)))
	mux.HandleFunc("POST /api/v2/device/{id}/tags", a.scoped("devices:core", a.onDevice(a.tagDevice)))
	mux.HandleFunc("/api/v2/", func(w http.ResponseWriter, r *http.Request) { refuse(w, http.StatusNotFound, "404 page not found") })
	return mux
}

type tailscale struct{ t *Tailnet }

func refuse(w http.ResponseWriter, status int, message string) {
	writeJSON(w, status, map[string]string{"message": message})
}

func (a tailscale) issueToken(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
	secret := r.PostFormValue("client_secret")
	if _, password, ok := r.BasicAuth(); ok {
		secret = password
	}
	text, client, ok := a.t.login(secret)
	if !ok {
		refuse(w, http.StatusUnauthorized, "API token invalid")
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"access_token": text,
		"token_type":   "Bearer",
		"expires_in":   int(tokenLifetime.Seconds()),
		"scope":        strings.Join(client.Scopes, " "),
		"tags":         strings.Join(client.Tags, " "),
	})
}

// scoped calls the handler if the request's token has the scope.
func (a tailscale) scoped(scope string, do func(http.ResponseWriter, *http.Request, OAuthClient)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		text, isBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if user, _, ok := r.BasicAuth(); ok {
			text, isBearer = user, true
		}
		client, ok := a.t.bearer(text)
		switch {
		case !isBearer || !ok:
			refuse(w, http.StatusUnauthorized, "API token invalid")
		case !client.has(scope):
			refuse(w, http.StatusForbidden, "calling actor does not have enough permissions to perform this function")
		default:
			do(w, r, client)
		}
	}
}

type keyCapabilities struct {
	Devices struct {
		Create struct {
			Reusable      bool     `json:"reusable"`
			Ephemeral     bool     `json:"ephemeral"`
			Preauthorized bool     `json:"preauthorized"`
			Tags          []string `json:"tags"`
		} `json:"create"`
	} `json:"devices"`
}

const longestKey = 90 * 24 * time.Hour

var description = regexp.MustCompile(`^[A-Za-z0-9 -]{0,50}$`)

func (a tailscale) createKey(w http.ResponseWriter, r *http.Request, client OAuthClient) {
	var req struct {
		Capabilities  keyCapabilities `json:"capabilities"`
		ExpirySeconds int64           `json:"expirySeconds"`
		Description   string          `json:"description"`
	}
	if err := readJSON(r, &req); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	create := req.Capabilities.Devices.Create
	expiry := time.Duration(req.ExpirySeconds) * time.Second
	if expiry == 0 {
		expiry = longestKey
	}
	switch {
	case !a.t.mayGive(client, create.Tags):
		refuse(w, http.StatusBadRequest, fmt.Sprintf("requested tags %s are invalid or not permitted", quoteTags(create.Tags)))
		return
	case expiry < 0 || expiry > longestKey:
		refuse(w, http.StatusBadRequest, "expirySeconds must be between 1 and 7776000")
		return
	case !description.MatchString(req.Description):
		refuse(w, http.StatusBadRequest, "description may only contain up to 50 letters, digits, hyphens and spaces")
		return
	}
	k := a.t.MintKey(AuthKey{Reusable: create.Reusable, Ephemeral: create.Ephemeral, Tags: create.Tags}, expiry)
	writeJSON(w, http.StatusOK, map[string]any{
		"id": k.ID, "key": k.Secret, "keyType": "auth", "description": req.Description,
		"created": time.Now().UTC().Format(time.RFC3339), "expires": k.Expires.UTC().Format(time.RFC3339),
		"expirySeconds": int64(expiry.Seconds()), "capabilities": req.Capabilities,
	})
}

// device is a node as the API shows it. lastSeen is omitted while the device is connected.
type device struct {
	Addresses          []string `json:"addresses"`
	ID                 string   `json:"id"`
	NodeID             string   `json:"nodeId"`
	User               string   `json:"user"`
	Name               string   `json:"name"`
	Hostname           string   `json:"hostname"`
	Created            string   `json:"created"`
	Expires            string   `json:"expires"`
	LastSeen           string   `json:"lastSeen,omitempty"`
	KeyExpiryDisabled  bool     `json:"keyExpiryDisabled"`
	Authorized         bool     `json:"authorized"`
	ConnectedToControl bool     `json:"connectedToControl"`
	IsEphemeral        bool     `json:"isEphemeral"`
	MachineKey         string   `json:"machineKey"`
	NodeKey            string   `json:"nodeKey"`
	Tags               []string `json:"tags,omitempty"`
}

func (a tailscale) device(n Node) device {
	d := device{
		ID:                 strconv.FormatInt(int64(n.ID), 10),
		NodeID:             string(n.StableID()),
		User:               "owner@" + a.t.Domain,
		Name:               n.Name + "." + a.t.Domain,
		Hostname:           n.Hostname,
		Created:            n.Created.UTC().Format(time.RFC3339),
		Expires:            n.KeyExpiry.UTC().Format(time.RFC3339),
		KeyExpiryDisabled:  n.KeyExpiry.IsZero(),
		Authorized:         true,
		ConnectedToControl: n.Online(),
		IsEphemeral:        n.Ephemeral,
		MachineKey:         n.Machine.String(),
		NodeKey:            n.Key.String(),
		Tags:               n.Tags,
	}
	if !n.Online() {
		d.LastSeen = n.LastSeen.UTC().Format(time.RFC3339)
	}
	for _, address := range n.Addresses {
		d.Addresses = append(d.Addresses, address.String())
	}
	return d
}

func (a tailscale) listDevices(w http.ResponseWriter, _ *http.Request, _ OAuthClient) {
	devices := []device{}
	for _, n := range a.t.Nodes() {
		devices = append(devices, a.device(n))
	}
	writeJSON(w, http.StatusOK, map[string]any{"devices": devices})
}

// onDevice calls a function with the device in the path.
func (a tailscale) onDevice(do func(http.ResponseWriter, *http.Request, OAuthClient, Node)) func(http.ResponseWriter, *http.Request, OAuthClient) {
	return func(w http.ResponseWriter, r *http.Request, client OAuthClient) {
		id, nodes := r.PathValue("id"), a.t.Nodes()
		i := slices.IndexFunc(nodes, func(n Node) bool {
			return string(n.StableID()) == id
		})
		if i < 0 {
			refuse(w, http.StatusNotFound, "no matching device found")
			return
		}
		do(w, r, client, nodes[i])
	}
}

func (a tailscale) showDevice(w http.ResponseWriter, _ *http.Request, _ OAuthClient, n Node) {
	writeJSON(w, http.StatusOK, a.device(n))
}

func (a tailscale) deleteDevice(w http.ResponseWriter, _ *http.Request, _ OAuthClient, n Node) {
	a.changed(w, a.t.Delete(n.ID))
}

func (a tailscale) nameDevice(w http.ResponseWriter, r *http.Request, _ OAuthClient, n Node) {
	var req struct {
		Name string `json:"name"`
	}
	if err := readJSON(r, &req); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	name, _, _ := strings.Cut(req.Name, ".")
	a.changed(w, a.t.Rename(n.ID, name))
}

func (a tailscale) tagDevice(w http.ResponseWriter, r *http.Request, client OAuthClient, n Node) {
	var req struct {
		Tags []string `json:"tags"`
	}
	if err := readJSON(r, &req); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if !a.t.mayGive(client, req.Tags) {
		refuse(w, http.StatusBadRequest, fmt.Sprintf("requested tags %s are invalid or not permitted", quoteTags(req.Tags)))
		return
	}
	a.changed(w, a.t.Update(n.ID, func(n *Node) { n.Tags = req.Tags }))
}

// changed ends a request that returns nothing: 200 with an empty body, or 404 if the device no longer exists.
func (tailscale) changed(w http.ResponseWriter, err error) {
	if err != nil {
		refuse(w, http.StatusNotFound, "no matching device found")
		return
	}
	w.WriteHeader(http.StatusOK)
}
