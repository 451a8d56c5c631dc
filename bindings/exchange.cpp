#include "array.hpp"
#include "register.hpp"

#include <algorithm>

namespace pyalexnet {
namespace {

using Arrays = std::vector<Array<const float>>;

// The arrays of a list, each on any device.
Arrays peers_of(Call& call, const char* name, const py::sequence& objects) {
    call.expect(1 <= objects.size() && objects.size() <= kMaxPeers,
                std::string(name) + " has " + std::to_string(objects.size()) + " arrays; 1 to " +
                    std::to_string(kMaxPeers) + " were expected");
    Arrays peers;
    for (const py::object object : objects) { // held: an array makes each row anew
        const std::string own = std::string(name) + "[" + std::to_string(peers.size()) + "]";
        peers.push_back(call.peer_input<const float>(own.c_str(), object));
        call.expect(peers.back().rank() >= 1, own + " has no axes; (..., channels) was expected");
    }
    return peers;
}

// Whether the maps have the same pixels: all axes but the last.
template <class A, class B> bool same_pixels(const A& a, const B& b) {
    return a.rank() == b.rank() &&
           std::equal(a.shape().begin(), a.shape().end() - 1, b.shape().begin());
}

void gather(const py::sequence& parts_, const py::object& whole_, const Place& place) {
    Call call("exchange_gather", place);
    const Arrays peers = peers_of(call, "parts", parts_);
    const auto whole = call.output<float>("whole", whole_);
    Peers parts{};
    std::int64_t channels = 0;
    for (const auto& peer : peers) {
        call.expect(same_pixels(peer, whole), "a part has shape " + peer.shape_text() +
                                                  "; whole has shape " + whole.shape_text());
        parts.channels[parts.count++] = call.extent("channels of a part", peer.dim(-1));
        channels += peer.dim(-1);
    }
    call.expect(call.extent("channels", whole.dim(-1)) == channels,
                "whole has " + std::to_string(whole.dim(-1)) + " channels; the parts have " +
                    std::to_string(channels));
    call.launch([=](Stream s) {
        Peers placed = parts;
        for (int i = 0; i < placed.count; ++i)
            placed.data[i] = peers[static_cast<std::size_t>(i)].data();
        exchange_gather(placed, whole.data(), whole.size() / channels, s);
    });
}

void scatter_add(const py::sequence& dwholes_, const py::object& dpart_, std::int64_t start,
                 const Place& place) {
    Call call("exchange_scatter_add", place);
    const Arrays peers = peers_of(call, "dwholes", dwholes_);
    const auto dpart = call.output<float>("dpart", dpart_);
    const auto& first = peers.front();
    for (const auto& peer : peers)
        call.expect(peer.same_shape(first), "an array of dwholes has shape " + peer.shape_text() +
                                                "; the first has " + first.shape_text());
    call.expect(same_pixels(dpart, first), "dpart has shape " + dpart.shape_text() +
                                               "; the wholes have shape " + first.shape_text());
    const int whole_channels = call.extent("channels", first.dim(-1));
    const int part_channels = call.extent("channels of dpart", dpart.dim(-1));
    call.expect(start >= 0 && start <= std::int64_t{whole_channels} - part_channels,
                "start is " + std::to_string(start) + "; " + std::to_string(part_channels) +
                    " channels from there were expected to lie within " +
                    std::to_string(whole_channels));
    call.launch([=](Stream s) {
        Peers dwholes{};
        for (const auto& peer : peers) {
            dwholes.channels[dwholes.count] = whole_channels;
            dwholes.data[dwholes.count++] = peer.data();
        }
        exchange_scatter_add(dwholes, dpart.data(), dpart.size() / part_channels,
                             static_cast<int>(start), part_channels, s);
    });
}

} // namespace

void register_exchange(py::module_& m) {
    m.def("exchange_gather", &gather, "parts"_a, "whole"_a, "place"_a);
    m.def("exchange_scatter_add", &scatter_add, "dwholes"_a, "dpart"_a, "start"_a, "place"_a);
}

} // namespace pyalexnet
