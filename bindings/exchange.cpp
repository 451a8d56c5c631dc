#include "array.hpp"

namespace pyalexnet {
namespace {

template <class T> using Arrays = std::vector<Array<const T>>;

// The shape of maps with these channels in place of their own.
Extents with_channels(const Array<const float>& maps, std::int64_t channels) {
    Extents shape = maps.shape();
    shape.back() = channels;
    return shape;
}

// The arrays of a list, each on any device.
template <class T>
Arrays<T> arrays_of(Call& call, const std::string& name, const py::sequence& objects, int most) {
    const int count = static_cast<int>(objects.size());
    call.expect(1 <= count && count <= most, name + " has " + std::to_string(count) +
                                                 " arrays; 1 to " + std::to_string(most) +
                                                 " were expected");
    Arrays<T> arrays;
    for (const py::object object : objects) { // held: an array makes each row anew
        const std::string own = name + "[" + std::to_string(arrays.size()) + "]";
        arrays.push_back(call.input<T>(own, object, {}, Access::peer));
    }
    return arrays;
}

// The arrays of maps with the same pixels: all axes but the last agree.
Arrays<float> peers_of(Call& call, const std::string& name, const py::sequence& objects) {
    auto peers = arrays_of<float>(call, name, objects, kMaxPeers);
    for (const auto& peer : peers) {
        call.expect(!peer.shape().empty(),
                    peer.title() + " has no dimensions; (..., channels) was expected");
        call.expect_shape(peer, with_channels(peers.front(), peer.shape().back()));
    }
    return peers;
}

void gather(Call& call, const py::sequence& parts_, handle whole_) {
    const Arrays<float> peers = peers_of(call, "parts", parts_);
    Peers parts{};
    std::int64_t channels = 0;
    for (const auto& peer : peers) {
        parts.channels[parts.count++] = static_cast<int>(peer.shape().back());
        channels += peer.shape().back();
    }
    call.extent("channels", channels);
    const auto whole = call.output<float>("whole", whole_, with_channels(peers.front(), channels));
    call.launch([=](Stream s) {
        Peers own = parts;
        for (std::size_t i = 0; i < peers.size(); ++i) own.data[i] = peers[i].for_kernel();
        exchange_gather(own, whole.for_kernel(), whole.size() / channels, s);
    });
}

void scatter_add(Call& call, const py::sequence& dwholes_, handle dpart_, std::int64_t start) {
    const Arrays<float> peers = peers_of(call, "dwholes", dwholes_);
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
            dwholes.data[dwholes.count++] = peer.for_kernel();
        }
        exchange_scatter_add(dwholes, dpart.for_kernel(), dpart.size() / part_channels,
                             static_cast<int>(start), part_channels, s);
    });
}

void sum(Call& call, const py::sequence& parts_, handle total_) {
    call.expect(parts_.size() > 0, "parts is empty; a list of arrays was expected");
    with_element(py::object(parts_[0]), [&](auto element) {
        using T = decltype(element);
        const auto parts = arrays_of<T>(call, "parts", parts_, kMaxSummands);
        for (const auto& part : parts) call.expect_shape(part, parts.front().shape());
        with_element(total_, [&](auto result) {
            using Y = decltype(result);
            const auto total =
                call.output<Y>("total", total_, parts.front().shape(), Access::in_place);
            call.launch([=](Stream s) {
                Summands<T> summands{};
                for (const auto& part : parts) summands.data[summands.count++] = part.for_kernel();
                sum_parts(summands, total.for_kernel(), total.size(), s);
            });
        });
    });
}

const Ops exchange_ops([](py::module_& m) {
    define(m, "exchange_gather", gather, "parts"_a, "whole"_a);
    define(m, "exchange_scatter_add", scatter_add, "dwholes"_a, "dpart"_a, "start"_a);
    define(m, "sum_parts", sum, "parts"_a, "total"_a);
});

} // namespace
} // namespace pyalexnet
