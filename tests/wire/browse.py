"""Says what Debian's zeroconf sees: a line for each instance that comes, changes or goes."""
import sys
import threading

from zeroconf import IPVersion, ServiceBrowser, ServiceStateChange, Zeroconf


def texts(raw):
    while raw:
        yield raw[1 : 1 + raw[0]].decode()
        raw = raw[1 + raw[0] :]


def seen(zeroconf, service_type, name, state_change):
    if state_change is ServiceStateChange.Removed:
        print("gone", name, flush=True)
        return
    info = zeroconf.get_service_info(service_type, name, 3000)
    if info:
        print("seen", name, info.server, info.port, *texts(info.text), *sorted(info.parsed_addresses()), flush=True)


zeroconf = Zeroconf(ip_version=IPVersion[sys.argv[1]])
ServiceBrowser(zeroconf, [f"{name}." for name in sys.argv[2:]], handlers=[seen])
print("browsing", flush=True)
threading.Event().wait()
