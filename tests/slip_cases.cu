// Every launcher on small arrays of exactly the size that ops.h requires, so that test_bounds.py
// can check the checker's report on kernels with one wrong bound.
//
//   slip_cases FAMILY SLIP   SLIP: number of the planted slip, 0 for none
#include "ops.h"
#include "simt/device.hpp"
#include "simt/simt.hpp"
#include "slip.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

int planted_slip = 0;

namespace {

using namespace pyalexnet;
using simt::Access;

struct Array {
    const char* name;
    std::size_t count; // elements; of none the launcher gets a null pointer
    Access access = Access::read;
    std::size_t element_bytes = sizeof(float);
    int fill = 0; // each byte of it
};

// Pointers to the arrays, of any type that a launcher takes.
class Placed {
  public:
    explicit Placed(const simt::Session& session) : session_(session) {}
    struct Pointer {
        void* value;
        template <class T> operator T*() const { return static_cast<T*>(value); }
    };
    Pointer operator[](std::size_t i) const { return {session_[i]}; }

  private:
    const simt::Session& session_;
};

// Runs a launcher once, on arrays of zeros unless they specify something else.
void call(const std::vector<Array>& arrays, const std::function<void(const Placed&)>& launcher) {
    std::vector<std::vector<std::byte>> memory;
    std::vector<simt::Buffer> buffers;
    for (const Array& a : arrays) {
        memory.emplace_back(a.count * a.element_bytes, static_cast<std::byte>(a.fill));
        void* const begin = a.count ? memory.back().data() : nullptr;
        buffers.push_back(
            {a.name, begin, memory.back().size(), a.element_bytes, a.access, simt::kHost});
    }
    simt::Session session(0, buffers);
    launcher(Placed(session));
    session.finish();
}

template <class T = float> Array input(const char* name, std::size_t count) {
    return {name, count, Access::read, sizeof(T)};
}
template <class T = float> Array output(const char* name, std::size_t count) {
    return {name, count, Access::write, sizeof(T)};
}
template <class T = float> Array updated(const char* name, std::size_t count) {
    return {name, count, Access::read_write, sizeof(T)};
}
Array scratch(std::size_t bytes) { return {"workspace", bytes / sizeof(float), Access::scratch}; }

// Crops that would begin before the image (corners of -1) and after it, in two bands of rows;
// plain, and in blocks that they do not fill.
void augments() {
    for (const int fill : {0xff, 0x7f})
        for (const CropShape& s : {CropShape{{2, 10, 5, 3, 1, 0, 0, 10, 5}, 12, 7},
                                   CropShape{{2, 10, 5, 3, 2, 1, 0, 6, 3}, 12, 7}})
            call({{"x", 2 * 12 * 7 * 3, Access::read, 1},
                  {"mean", 12 * 7 * 3},
                  {"corners", 2 * 2, Access::read, sizeof(std::int32_t), fill},
                  {"flips", 2, Access::read, 1},
                  {"shifts", 2 * 3},
                  output("y", std::size_t{2} * s.rows * s.columns * s.block * s.block * 3)},
                 [&](const Placed& p) {
                     augment<float>(p[0], p[1], p[2], p[3], p[4], p[5], s, 1.0f, true, nullptr);
                 });
}

// Filters that do not fill their blocks.
void depths() {
    const FilterShape s{2, 5, 4, 3}, deep = s.deep(3);
    const std::size_t w = s.rows() * s.width * s.channels;
    const std::size_t d = deep.rows() * deep.width * deep.channels;
    call({{"w", w}, output("deep", d)},
         [&](const Placed& p) { filters_to_depth<float>(p[0], p[1], s, 3, nullptr); });
    call({{"ddeep", d}, output("dw", w)},
         [&](const Placed& p) { filters_from_depth(p[0], p[1], s, 3, nullptr); });
}

template <class T> void conv(const ConvShape& s) {
    const std::size_t x = s.in_pixels() * s.channels, y = s.out_pixels() * s.filters;
    const std::size_t w = s.filters * s.taps(), b = s.filters;
    const std::size_t low = std::is_same_v<T, bf16> ? w : 0;
    const Dropped dropped{true, {0.5, 1, {nullptr, 2}, 3, 0, 1 << 20}, 2.0f};
    const Rule rule{{nullptr, 0.5f}, 0.5f, 0.5f};
    call({input<T>("x", x),
          input<T>("w", w),
          {"b", b},
          output<T>("y", y),
          scratch(conv_workspace<T>(Pass::fprop, s))},
         [&](const Placed& p) {
             conv_fprop<T, T>(p[0], p[1], p[2], p[3], s, Activation::relu, dropped, p[4], nullptr);
         });
    call({input<T>("dy", y), input<T>("w", w), input<T>("gate", x), output<T>("dx", x),
          scratch(conv_workspace<T>(Pass::dgrad, s))},
         [&](const Placed& p) { conv_dgrad<T>(p[0], p[1], p[2], 2.0f, p[3], s, p[4], nullptr); });
    call({input<T>("x", x), input<T>("dy", y), output("dw", w), output("db", b),
          scratch(conv_workspace<T>(Pass::wgrad, s))},
         [&](const Placed& p) { conv_wgrad<T>(p[0], p[1], p[2], p[3], s, p[4], nullptr); });
    call({input<T>("x", x), input<T>("dy", y), updated<T>("w.w", w),
          updated<std::uint16_t>("w.low", low), updated("w.v", w), updated("b.w", b),
          updated("b.v", b), scratch(conv_workspace<T>(Pass::wgrad, s))},
         [&](const Placed& p) {
             const Learned<T> weights{p[2], p[3], p[4]};
             const Learned<float> biases{p[5], nullptr, p[6]};
             conv_wgrad_sgd<T>(p[0], p[1], weights, rule, biases, rule, s, p[7], nullptr);
         });
}

// In two groups with padding; and one so deep that it is split.
void convs() {
    conv<float>({2, 5, 4, 6, 4, 3, 3, 5, 4, 1, 1, 1, 1, 2});
    conv<float>({1, 3, 3, 66, 3, 3, 3, 3, 3, 1, 1, 1, 1, 1});
}

// The same on the tensor cores, gathered singly; and in vectors, one of them strided.
void tensors() {
    conv<bf16>({2, 5, 4, 6, 4, 3, 3, 5, 4, 1, 1, 1, 1, 2});
    conv<bf16>({2, 5, 4, 16, 16, 3, 3, 5, 4, 1, 1, 1, 1, 2});
    conv<bf16>({1, 3, 3, 72, 8, 3, 3, 3, 3, 1, 1, 1, 1, 1});
    conv<bf16>({2, 7, 6, 8, 8, 3, 2, 3, 3, 2, 2, 0, 0, 1});
}

// The same by Hopper's loop: filters that fill no vector, that fill no slice, and that fill one;
// and pixels for two tiles, which a cluster computes.
void hoppers() {
    conv<bf16>({1, 5, 4, 8, 5, 3, 3, 5, 4, 1, 1, 1, 1, 1, 1, Unit::wgmma});
    conv<bf16>({2, 5, 4, 16, 16, 3, 3, 5, 4, 1, 1, 1, 1, 2, 1, Unit::wgmma});
    conv<bf16>({1, 5, 4, 8, 64, 3, 3, 5, 4, 1, 1, 1, 1, 1, 1, Unit::wgmma});
    conv<bf16>({2, 13, 12, 8, 64, 3, 3, 13, 12, 1, 1, 1, 1, 1, 1, Unit::wgmma});
}

// dgrad in patches, the last with fewer filters: a last tile with fewer rows, and channels that do
// not fill it; a tile for 48 channels, and a patch loaded with the last tap that can load it.
void patches() {
    conv<bf16>({2, 13, 21, 48, 80, 3, 3, 13, 21, 1, 1, 1, 1, 2});
    conv<bf16>({1, 8, 21, 40, 40, 3, 3, 8, 21, 1, 1, 1, 1, 1});
}

// By wgmma, in three patches: in two groups; channels that do not fill a tile, and a last block
// that ends behind the last image.
void hopper_patches() {
    conv<bf16>({2, 13, 21, 96, 144, 2, 3, 13, 21, 1, 1, 1, 1, 2, 1, Unit::wgmma});
    conv<bf16>({1, 8, 21, 40, 72, 2, 3, 8, 21, 1, 1, 1, 1, 1, 1, Unit::wgmma});
}

// The same with float32 in three planes.
void splits() {
    conv<float>({2, 5, 4, 6, 4, 3, 3, 5, 4, 1, 1, 1, 1, 2, 1, Unit::mma});
    conv<float>({2, 5, 4, 16, 16, 3, 3, 5, 4, 1, 1, 1, 1, 2, 1, Unit::mma});
    conv<float>({1, 3, 3, 72, 8, 3, 3, 3, 3, 1, 1, 1, 1, 1, 1, Unit::mma});
    conv<float>({2, 7, 6, 8, 8, 3, 2, 3, 3, 2, 2, 0, 0, 1, 1, Unit::mma});
}

// With a last window clipped by the border (P = 3), and with last rows outside every window
// (P = 2).
void pools() {
    for (const int out : {3, 2}) {
        const PoolShape s{2, 6, 6, 3, out, out, 3, 2};
        const std::size_t x = 2 * 6 * 6 * 3, y = std::size_t{2} * out * out * 3;
        call({{"x", x}, output("y", y), {"where", y, Access::write, 1}}, [&](const Placed& p) {
            maxpool_fprop<float, std::uint8_t>(p[0], p[1], p[2], s, nullptr);
        });
        call({{"dy", y}, {"where", y, Access::read, 1}, output("dx", x)}, [&](const Placed& p) {
            maxpool_dgrad<float, std::uint8_t>(p[0], p[1], nullptr, p[2], s, nullptr);
        });
        call({{"x", x}, output("y", y)},
             [&](const Placed& p) { avgpool_fprop<float>(p[0], p[1], s, nullptr); });
        call({{"dy", y}, output("dx", x)},
             [&](const Placed& p) { avgpool_dgrad<float>(p[0], p[1], s, nullptr); });
    }
}

// More than one tile, and a window whose size is known at compile time (5) or not (3).
void lrns() {
    for (const int size : {5, 3}) {
        const ResponseNorm norm{size, 1.0f, 0.75f, 2.0f};
        const std::size_t count = 150 * 12;
        call({{"x", count}, output("y", count)},
             [&](const Placed& p) { lrn_fprop<float>(p[0], p[1], 150, 12, 2, norm, nullptr); });
        call({{"x", count}, {"dy", count}, output("dx", count)}, [&](const Placed& p) {
            lrn_dgrad<float>(p[0], p[1], p[2], 150, 12, 2, norm, nullptr);
        });
    }
}

// Ragged strips and tiles, in two groups of channels. The last windows of a row are clipped.
void lrn_pools() {
    const ResponseNorm norm{5, 1.0f, 0.75f, 2.0f};
    const PoolShape shapes[] = {{1, 23, 8, 40, 11, 4, 3, 2},   // strips of 6 and 5 rows of windows
                                {1, 2, 29, 256, 1, 14, 3, 2}}; // tiles of 6 columns, and one of 5
    for (const PoolShape& s : shapes) {
        const std::size_t x = s.images * s.height * s.width * s.channels;
        const std::size_t y = s.images * s.out_height * s.out_width * s.channels;
        call({{"x", x}, output("y", y), {"where", y, Access::write, 1}}, [&](const Placed& p) {
            lrn_maxpool_fprop<float>(p[0], p[1], p[2], s, 2, norm, true, nullptr);
        });
        call({{"x", x}, {"y", y}, {"dy", y}, {"where", y, Access::read, 1}, output("dx", x)},
             [&](const Placed& p) {
                 lrn_maxpool_dgrad<float>(p[0], p[1], p[2], p[3], p[4], s, 2, norm, true, nullptr);
             });
    }
}

void rnorms() {
    const ResponseNorm norm{3, 1.0f, 0.75f, 2.0f};
    const std::size_t count = 2 * 10 * 4 * 3;
    call({{"x", count}, output("y", count)},
         [&](const Placed& p) { rnorm_fprop<float>(p[0], p[1], 2, 10, 4, 3, norm, nullptr); });
    call({{"x", count},
          {"dy", count},
          output("dx", count),
          scratch(rnorm_dgrad_workspace(2, 10, 4, 3))},
         [&](const Placed& p) {
             rnorm_dgrad<float>(p[0], p[1], p[2], 2, 10, 4, 3, norm, p[3], nullptr);
         });
}

void softmax() {
    call({{"logits", 5 * 40},
          {"labels", 5, Access::read, sizeof(std::int64_t)},
          output("loss", 1),
          output("dlogits", 5 * 40),
          output("top1", 1),
          output("top5", 1),
          scratch(softmax_cross_entropy_workspace(5))},
         [&](const Placed& p) {
             softmax_cross_entropy<float>(p[0], p[1], p[2], p[3], p[4], p[5], 5, 40, p[6], nullptr);
         });
}

void elementwise() {
    call({{"x", 7}, output("y", 7)},
         [](const Placed& p) { relu_fprop<float>(p[0], p[1], 7, nullptr); });
    call({{"y", 7}, {"dy", 7}, output("dx", 7)},
         [](const Placed& p) { relu_dgrad<float>(p[0], p[1], p[2], 7, nullptr); });
    call({{"w", 7, Access::read_write}, {"v", 7, Access::read_write}, {"dw", 7}},
         [](const Placed& p) {
             const Learned<float> learned{p[0], nullptr, p[1]};
             sgd_update(learned, p[2], 7, Rule{{nullptr, 0.5f}, 0.5f, 0.5f}, nullptr);
         });
    const DropoutDraw draw{0.5, 1, {nullptr, 2}, 3, 1, 9};
    call({{"x", 2 * 7}, output("y", 2 * 7)},
         [&](const Placed& p) { dropout<float>(p[0], p[1], 2, 7, draw, nullptr); });
}

void exchanges() {
    call({{"parts[0]", 5 * 3}, {"parts[1]", 5 * 2}, output("whole", 5 * 5)}, [](const Placed& p) {
        const Peers parts{{p[0], p[1]}, {3, 2}, 2};
        exchange_gather(parts, p[2], 5, nullptr);
    });
    call({{"dwholes[0]", 5 * 5}, {"dwholes[1]", 5 * 5}, output("dpart", 5 * 2)},
         [](const Placed& p) {
             const Peers wholes{{p[0], p[1]}, {5, 5}, 2};
             exchange_scatter_add(wholes, p[2], 5, 3, 2, nullptr);
         });
    call({{"parts[0]", 7}, {"parts[1]", 7}, output("total", 7)},
         [](const Placed& p) { sum_parts<float, float>({{p[0], p[1]}, 2}, p[2], 7, nullptr); });
}

struct Family {
    const char* name;
    void (*run)();
};

constexpr Family kFamilies[] = {{"augment", augments},   {"depth", depths},
                                {"conv", convs},         {"tensor", tensors},
                                {"hopper", hoppers},     {"split", splits},
                                {"patch", patches},      {"hopper_patch", hopper_patches},
                                {"pool", pools},         {"lrn", lrns},
                                {"lrn_pool", lrn_pools}, {"rnorm", rnorms},
                                {"softmax", softmax},    {"elementwise", elementwise},
                                {"exchange", exchanges}};

} // namespace

int main(int count, char** arguments) {
    if (count != 3) return 2;
    planted_slip = std::atoi(arguments[2]);
    for (const Family& family : kFamilies) {
        if (std::strcmp(family.name, arguments[1]) != 0) continue;
        try {
            family.run();
            std::printf("no report\n");
        } catch (const simt::Error& error) {
            std::printf("%s\n", error.what());
        }
        return 0;
    }
    return 2;
}
