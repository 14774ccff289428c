#pragma once
#include <memory>
#include "G4VTouchable.hh"
class G4TouchableHandle {
public:
    explicit G4TouchableHandle(G4VTouchable* touchable = nullptr) : touchable_(touchable) {}
    G4VTouchable* operator()() const { return touchable_.get(); }
    G4VTouchable* operator->() const { return touchable_.get(); }

private:
    std::shared_ptr<G4VTouchable> touchable_;
};
