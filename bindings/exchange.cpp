#include "array.hpp"

namespace pyalexnet {
namespace {

using Arrays = std::vector<Array<const float>>;

// The shape of maps with these channels in place of their own.
Extents with_channels(const Array<const float>& maps, std::int64_t channels) {
    Extents shape = maps.shape();
    shape.back() = channels;
    return shape;
}

// The arrays of a list, each on any device, with the same pixels: all axes but the last.
Arrays peers_of(Call& call, const std::string& name, const py::sequence& objects) {
    call.expect(1 <= objects.size() && objects.size() <= kMaxPeers,
                name + " has " + std::to_string(objects.size()) + " arrays; 1 to " +
                    std::to_string(kMaxPeers) + " were expected");
    Arrays peers;
    for (const py::object object : objects) { // held: an array makes each row anew
        const std::string own = name + "[" + std::to_string(peers.size()) + "]";
        peers.push_back(call.input<float>(own, object, {}, Access::peer));
        const auto& peer = peers.back();
        call.expect(!peer.shape().empty(),
                    own + " has no dimensions; (..., channels) was expected");
        call.expect_shape(peer, with_channels(peers.front(), peer.shape().back()));
    }
    return peers;
}

void gather(Call& call, const py::sequence& parts_, handle whole_) {
    const Arrays peers = peers_of(call, "parts", parts_);
    Peers parts{};
    std::int64_t channels = 0;
    for (const auto& peer : peers) {
        parts.channels[parts.count++] = static_cast<int>(peer.shape().back());
        channels += peer.shape().back();
    }
    call.extent("channels", channels);
    const auto whole = call.output<float>("whole", whole_, with_channels(peers.front(), channels));
    call.launch([=](Stream s) {
        Peers placed = parts;
        for (std::size_t i = 0; i < peers.size(); ++i) placed.data[i] = peers[i].placed();
        exchange_gather(placed, whole.placed(), whole.size() / channels, s);
    });
}

void scatter_add(Call& call, const py::sequence& dwholes_, handle dpart_, std::int64_t start) {
    const Arrays peers = peers_of(call, "dwholes", dwholes_);
    const auto& first = peers.front();
    for (const auto& peer : peers) call.expect_shape(peer, first.shape());
    const auto dpart = call.output<float>("dpart", dpart_);
    call.expect(!dpart.shape().empty(), dpart.title() + " has no dimensions");
    call.expect_shape(dpart, with_channels(first, dpart.shape().back()));
    const int whole_channels = call.extent("channels", first.shape().back());
    const int part_channels = call.extent("channels of dpart", dpart.shape().back());
    call.expect(start >= 0 && start <= std::int64_t{whole_channels} - part_channels,
                "start is " + std::to_string(start) + "; " + std::to_string(part_channels) +
                    " channels from there were expected to lie within " +
                    std::to_string(whole_channels));
    call.launch([=](Stream s) {
        Peers dwholes{};
        for (const auto& peer : peers) {
            dwholes.channels[dwholes.count] = whole_channels;
            dwholes.data[dwholes.count++] = peer.placed();
        }
        exchange_scatter_add(dwholes, dpart.placed(), dpart.size() / part_channels,
                             static_cast<int>(start), part_channels, s);
    });
}

const Ops exchange_ops([](py::module_& m) {
    define(m, "exchange_gather", gather, "parts"_a, "whole"_a);
    define(m, "exchange_scatter_add", scatter_add, "dwholes"_a, "dpart"_a, "start"_a);
});

} // namespace
} // namespace pyalexnet
