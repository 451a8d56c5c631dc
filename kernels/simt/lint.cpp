#include "lint.hpp"

#include "source_lines.hpp"

#include <algorithm>

namespace simt::check {
namespace {

constexpr std::size_t kSectorBytes = 32;
constexpr std::size_t kWordBytes = 4;
constexpr unsigned kBanks = 32;
constexpr unsigned kWarp = 32;

using Addresses = std::vector<std::uintptr_t>;

void keep_different(Addresses& addresses) {
    std::sort(addresses.begin(), addresses.end());
    addresses.erase(std::unique(addresses.begin(), addresses.end()), addresses.end());
}

// The units of `unit` bytes that accesses of `bytes` at these addresses touch, each once.
Addresses touched(const Addresses& addresses, std::size_t bytes, std::size_t unit) {
    Addresses units;
    for (const std::uintptr_t address : addresses)
        for (std::uintptr_t u = address / unit; u <= (address + bytes - 1) / unit; ++u)
            units.push_back(u);
    keep_different(units);
    return units;
}

// How often the banks have to deliver: the most different words in any one of them.
std::uint64_t passes(const Addresses& addresses, std::size_t bytes) {
    std::array<std::uint64_t, kBanks> words_of{};
    for (const std::uintptr_t word : touched(addresses, bytes, kWordBytes))
        ++words_of[word % kBanks];
    return *std::max_element(words_of.begin(), words_of.end());
}

// Lanes that the banks serve together: they deliver 32 words at once.
unsigned lanes_together(std::size_t bytes) {
    const std::size_t words = (bytes + kWordBytes - 1) / kWordBytes;
    return std::max(1u, kWarp / static_cast<unsigned>(words));
}

} // namespace

// ---------------------------------------------------------------------- one request

void Lint::Counts::operator+=(const Counts& other) {
    requests += other.requests;
    transfers += other.transfers;
    ideal += other.ideal;
}

Lint::Counts Lint::counts_of(const Request& request, const Instruction& instruction) {
    const auto addresses_of = [&request](unsigned first, unsigned last) {
        Addresses addresses;
        for (unsigned lane = first; lane < last; ++lane)
            if (request.lanes >> lane & 1u) addresses.push_back(request.addresses[lane]);
        return addresses;
    };
    Counts counts{1, 0, 0};
    if (!instruction.shared) {
        Addresses addresses = addresses_of(0, kWarp);
        counts.transfers = touched(addresses, instruction.bytes, kSectorBytes).size();
        keep_different(addresses);
        counts.ideal = (addresses.size() * instruction.bytes + kSectorBytes - 1) / kSectorBytes;
        return counts;
    }
    const unsigned together = lanes_together(instruction.bytes);
    for (unsigned first = 0; first < kWarp; first += together) {
        const Addresses addresses = addresses_of(first, std::min(first + together, kWarp));
        if (addresses.empty()) continue;
        counts.transfers += passes(addresses, instruction.bytes);
        ++counts.ideal;
    }
    return counts;
}

// ---------------------------------------------------------------------- a block, epoch by epoch

void Lint::access(const Instruction& instruction, const std::string& name, const std::byte* array,
                  unsigned thread, const std::byte* address) {
    const std::tuple key(instruction.pc, array, instruction.write, instruction.bytes);
    auto place = epoch_.find(key);
    if (place == epoch_.end())
        place = epoch_.emplace(key, Executions{instruction, name, {}, {}}).first;
    Executions& executions = place->second;
    const std::uint32_t before = executions.of_thread[thread]++;
    std::vector<Request>& requests = executions.of_warp[thread / kWarp];
    if (requests.size() <= before) requests.resize(before + 1);
    Request& request = requests[before];
    request.lanes |= 1u << thread % kWarp;
    request.addresses[thread % kWarp] = reinterpret_cast<std::uintptr_t>(address);
}

void Lint::end_epoch() {
    for (const auto& [key, executions] : epoch_) {
        const Instruction& at = executions.instruction;
        Counts& sum = counted_[{at.pc, executions.name, at.shared, at.write, at.bytes}];
        for (const std::vector<Request>& requests : executions.of_warp)
            for (const Request& request : requests) sum += counts_of(request, at);
    }
    epoch_.clear();
}

// ---------------------------------------------------------------------- the result

// Several instructions of one line, such as those of a template's instances, form one row.
std::vector<LintRow> Lint::rows() {
    end_epoch();
    std::vector<std::uint32_t> offsets;
    for (const auto& [key, counts] : counted_) offsets.push_back(std::get<0>(key));
    const std::vector<std::string> lines = source_lines(offsets);
    std::map<std::tuple<std::string, std::string, bool, bool, std::size_t>, Counts> by_line;
    std::size_t index = 0;
    for (const auto& [key, counts] : counted_) {
        const auto& [pc, name, shared, write, bytes] = key;
        by_line[{lines[index++], name, shared, write, bytes}] += counts;
    }
    std::vector<LintRow> rows;
    for (const auto& [key, counts] : by_line) {
        const auto& [line, name, shared, write, bytes] = key;
        rows.push_back(
            {line, name, shared, write, bytes, counts.requests, counts.transfers, counts.ideal});
    }
    return rows;
}

} // namespace simt::check
